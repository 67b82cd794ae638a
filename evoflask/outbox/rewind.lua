-- rewind: Redis' clock went back, so dates that a lane got before lie too far ahead.
--
--   waiting:<s>  zset  dates of retries     lane:<s>  hash  end, until     early:<s>  hash  -
--   due:<sink>, alone:<sink>, oldest:<sink>  dates
--
-- Atomic a piece of a lane: a date that somebody gives meanwhile is not mixed up with it.
-- Done again it does no harm: a retry comes earlier than its schedule has it.
--
-- ARGV: s, ms that it went back, the date from which on they are brought nearer, ms of a hold,
--       entries at most. Answers the date to go on from; 0: the lane is done.

unblock()
local s, back, n = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local h = lane(s)
if not h.sink then return '0' end
local waiting = P .. 'waiting:' .. s
local rows = call('ZRANGEBYSCORE', waiting, ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, n)
for r = 1, #rows, 2 do
  -- Behind where the next piece begins, so that none is moved twice.
  call('ZADD', waiting, math.max(NOW, tonumber(rows[r + 1]) - back), rows[r])
end
if #rows == 2 * n then return rows[#rows] end
-- The dates in `early` lie too far ahead as well.
forget_early(s)
-- A hold that was renewed since is its holder's.
for field, limit in pairs({ ['until'] = NOW + back / 2, ['end'] = NOW + tonumber(ARGV[4]) }) do
  local at = tonumber(h[field] or 0)
  if at > limit then
    h[field] = string.format('%.0f', math.max(NOW, at - back))
    call('HSET', P .. 'lane:' .. s, field, h[field])
  end
end
redate(s, h)
return '0'
