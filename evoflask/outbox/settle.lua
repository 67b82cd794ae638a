-- settle: end attempts of one lane, and keep the hold or give it up.
--
--   lane:<s>  hash  hold, books, breaker, pace  waiting:<s>  zset  - members, dates
--   tries:<s> hash  how often an entry failed   dying:<s>, graves  what is given up
--   early:<s> hash  retries that came before their date
--   outbox:<i>, body:<i>:<e>   - entries past retention that no lane has any more
--   due:<sink>, oldest:<sink>, weight, weighing, totals
--   failing   zset  + the lane when its attempts fail, or work again after a report
--
-- Atomic because a delivery is on the lane, dying or settled, and exactly one of them; and
-- because the books move by what really left the lane.
--
-- ARGV: s, token, hold ms (0: give it up), ids wanted, cursor, new in hand, retries in hand,
--       mark ('' none), number of facts, fact name, fact value ... (breaker, last error),
--       number of totals, name, n, ... then outcomes: kind, member, attempt, x
--         d delivered · r retry (x: ms from now) · x dead (x: reason as JSON)
--         e a try before its date failed: tries and date stay
--         E, X like e and x, but not counted as a failure of the destination
--         R nothing changes: the try used outdated settings
-- Answers {'lost'} or {'ok', now ms, due now (1|0), applied, ids, active (1|0), revision,
-- epoch, early}; a lane that was stopped meanwhile is not active and hands out nothing.

-- Deliveries by ten seconds: the number of the newest ten, its count, those of the six before.
local function pace(old, n)
  local slot = math.floor(NOW / 10000)
  local counts = {}
  for word in string.gmatch(old or '', '%d+') do counts[#counts + 1] = word end
  local gap = slot - tonumber(table.remove(counts, 1) or 0)
  if gap > 0 then
    for _ = 1, math.min(gap, 7) do
      table.insert(counts, 1, 0)
      counts[8] = nil
    end
  end
  counts[1] = tonumber(counts[1] or 0) + n
  return slot .. ' ' .. table.concat(counts, ' ')
end

unblock()
local s, token, hold = ARGV[1], ARGV[2], tonumber(ARGV[3])
local h = lane(s, 'pace', 'delivered', 'early', 'recall', 'recalled')
if not h.sink or h.token ~= token then
  if h.sink then call('HINCRBY', P .. 'lane:' .. s, 'void', 1) end
  return { 'lost' }
end
local key = P .. 'lane:' .. s
local waiting = P .. 'waiting:' .. s
local a = 9
local facts = tonumber(ARGV[a])
if facts > 0 then
  call('HSET', key, unpack(ARGV, a + 1, a + facts * 2))
  h['until'] = call('HGET', key, 'until')
end
a = a + facts * 2 + 1
local c = call('HMGET', P .. 'config:' .. h.i, 'revision', 'epoch', 'edge')
local counts, at = tonumber(ARGV[a]), a
a = a + counts * 2 + 1

local members = {}
for o = a, #ARGV, 4 do members[#members + 1] = ARGV[o + 1] end
local off, freed, delivered, applied, retried, delays = {}, 0, 0, 0, 0, {}
local tried = {} -- those of `off` that had failed before
local faults = 0 -- attempts that failed after the last one that did not
if #members > 0 then
  local there = call('ZMSCORE', waiting, unpack(members))
  local tries = call('HMGET', P .. 'tries:' .. s, unpack(members))
  local marks = h.early and call('HMGET', P .. 'early:' .. s, unpack(members)) or {}
  local function leave(n, member)
    off[#off + 1] = member
    if tries[n] then tried[#tried + 1] = member end
    freed = freed + size_of(member)
  end
  for n, member in ipairs(members) do
    local o = a + (n - 1) * 4
    local kind, attempt = ARGV[o], tonumber(ARGV[o + 2])
    local before = tonumber(tries[n] or 0)
    if there[n] and kind == 'd' then
      leave(n, member)
      delivered, applied, faults = delivered + 1, applied + 1, 0
    elseif kind == 'R' then
      -- The entry stays due and uncharged.
    elseif string.lower(kind) == 'e' then
      local own = read_mark(marks[n], tries[n])
      if there[n] and before == attempt - 1 and own and tonumber(there[n]) < own then
        applied = applied + 1
        if kind == 'e' then faults = faults + 1 end
        delays[#delays + 1] = own
        delays[#delays + 1] = member
      end
    elseif there[n] and before == attempt - 1 then
      applied = applied + 1
      if kind == 'r' or kind == 'x' then faults = faults + 1 end
      if kind == 'r' then
        delays[#delays + 1] = NOW + tonumber(ARGV[o + 3])
        delays[#delays + 1] = member
        call('HSET', P .. 'tries:' .. s, member, attempt)
        retried = retried + 1
      else
        leave(n, member)
        -- X: given up without a try, because the entry is gone or too old.
        die(s, member, kind == 'X' and before or attempt, ARGV[o + 3])
      end
    end
  end
  if #off > 0 then
    call('ZREM', waiting, unpack(off))
    if #tried > 0 then call('HDEL', P .. 'tries:' .. s, unpack(tried)) end
    if h.early then call('HDEL', P .. 'early:' .. s, unpack(off)) end
    weigh(s, -freed)
  end
  if #delays > 0 then call('ZADD', waiting, 'XX', unpack(delays)) end
  if retried > 0 then call('HINCRBY', P .. 'totals', h.sink .. ':retried', retried) end
  if delivered > 0 then
    call('HSET', key, 'okat', NOW, 'pace', pace(h.pace, delivered),
      'delivered', tonumber(h.delivered or 0) + delivered)
    call('HINCRBY', P .. 'totals', h.sink .. ':delivered', delivered)
    release(h.i, off, c[3])
  end
end
if applied > 0 then
  for n = at + 1, at + counts * 2, 2 do call('HINCRBY', P .. 'totals', ARGV[n], ARGV[n + 1]) end
end

-- For the clock (failing.lua): how often attempts failed since the last success, and since when.
-- Here, because a success must undo it in the moment in which it counts.
if delivered > 0 and (h.fails or h.told) then
  call('HDEL', key, 'fails', 'since')
  if h.told then
    call('HSET', key, 'well', NOW)
    call('ZADD', P .. 'failing', NOW, s)
  end
end
if faults > 0 then
  call('HINCRBY', key, 'fails', faults)
  call('HSETNX', key, 'since', NOW)
  call('ZADD', P .. 'failing', 'NX', NOW, s)
end

-- After a success that follows failures, retries come forward, some with each call.
local from, cause = string.match(h.recall or '', '^(%d+) (%a+)$')
h.recall = from
if delivered > 0 and h.fails and not from then h.recall, cause = NOW, 'recovery' end
local moved = false
if h.recall and tonumber(h['until'] or 0) > NOW then
  call('HDEL', key, 'recall')
elseif h.recall and tonumber(h.recalled or 0) <= NOW then
  recall(s, h, cause)
  moved = true
elseif h.recall and not from then
  call('HSET', key, 'recall', string.format('%.0f %s', NOW, cause))
end

local ids, early, active = {}, {}, h.on == '1' and h.stop ~= '1'
if hold > 0 then
  h['end'] = NOW + hold
  call('HSET', key, 'end', h['end'])
  if ARGV[8] ~= '' then
    if call('HGET', key, 'mark') ~= ARGV[8] then call('HSET', key, 'mark', ARGV[8], 'marks', 0) end
    call('HSET', key, 'marked', 1)
  end
  local want = active and tonumber(ARGV[4]) or 0
  if want > 0 then
    ids, early = window(s, h, want, ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]))
    if #ids < want * 2 then call('HSET', key, 'hungry', 1) end
  end
else
  call('HDEL', key, 'token', 'end', 'lost', 'mark', 'marks', 'marked', 'hungry')
  h.token, h.lost = nil, nil
end
local d = redate(s, h, #off + #delays == 0 and not moved and front(s) or nil)
if h.early and #off > 0 and call('EXISTS', waiting) == 0 then forget_early(s) end
return { 'ok', NOW, (d and d <= NOW) and 1 or 0, applied, ids, active and 1 or 0, c[1] or '', c[2] or '',
  early }
