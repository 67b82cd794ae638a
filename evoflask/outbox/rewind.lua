-- rewind: Redis' clock went back, so dates that a lane got before lie too far ahead.
--
--   waiting:<s>  zset  dates of retries     early:<s>  hash  the dates that they had before
--   lane:<s>  hash  end, until, probed, recall, recalled       tries:<s>  hash  read
--   due:<sink>, alone:<sink>, oldest:<sink>  dates
--
-- Atomic a piece of a lane: a date that somebody gives meanwhile is not mixed up with it.
-- Done again it does no harm: a retry comes earlier than its schedule has it.
--
-- ARGV: s, ms that it went back, the date from which on they are brought nearer, ms of a hold,
--       entries at most. Answers the date to go on from; 0: the lane is done.

unblock()
local s, back, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local key = P .. 'lane:' .. s
local h = lane(s, 'early', 'probed', 'recall')
if not h.sink then return '0' end
local waiting = P .. 'waiting:' .. s
local rows = call('ZRANGEBYSCORE', waiting, ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, n)
local function nearer(at) return math.max(NOW, tonumber(at) - back) end
local members = {}
for r = 1, #rows, 2 do
  members[#members + 1] = rows[r]
  -- Behind where the next piece begins, so that none is moved twice.
  call('ZADD', waiting, nearer(rows[r + 1]), rows[r])
end
if h.early and members[1] then
  -- A retry that came forward stays early, with the date that it had moved like the others. One that
  -- has been due for half of the way back keeps that date: it comes late, and costs no try.
  local tries = call('HMGET', P .. 'tries:' .. s, unpack(members))
  local marks = call('HMGET', P .. 'early:' .. s, unpack(members))
  for m, member in ipairs(members) do
    local own, cause = read_mark(marks[m], tries[m])
    if own then mark_early(s, member, tries[m], nearer(own), cause) end
  end
end
if #rows == 2 * n then return rows[#rows] end
-- Where the last recall stopped; the next one may come at once.
local stopped, cause = string.match(h.recall or '', '^(%d+) (%a+)$')
if stopped then call('HSET', key, 'recall', string.format('%.0f %s', stopped - back, cause)) end
call('HDEL', key, 'recalled')
-- A hold that was renewed since is its holder's.
local paused = h['until']
for field, limit in pairs({ ['until'] = NOW + back / 2, ['end'] = NOW + tonumber(ARGV[4]) }) do
  local at = tonumber(h[field] or 0)
  if at > limit then
    h[field] = string.format('%.0f', nearer(at))
    call('HSET', key, field, h[field])
  end
end
-- A pause that a probe broke off, and its end.
local broke, ends = string.match(h.probed or '', '^(%d+) (%d+)$')
if broke and broke == paused and h['until'] ~= paused then
  call('HSET', key, 'probed', string.format('%s %.0f', h['until'], nearer(ends)))
end
redate(s, h)
return '0'
