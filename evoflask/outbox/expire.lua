-- expire: give up the oldest entries of a lane that is beyond a limit, whatever its flags.
--
--   waiting:<s>  zset  - members     tries:<s>  hash     dying:<s>, graves     weight, weighing
--   due:<sink>, oldest:<sink>  dates   over  set  - the lane, once it is within its limits
--
-- Atomic because a delivery is on the lane, dying or settled, and exactly one of them.
--
-- ARGV: s, age ms, entries, bytes, entries at most a call, detail for age, for entries, for
--       bytes. Answers {given up, more (1|0)}.

unblock()
local s = ARGV[1]
local h = lane(s)
if not h.sink then
  call('SREM', P .. 'over', s)
  return { 0, 0 }
end
local waiting = P .. 'waiting:' .. s
local count = call('ZCARD', waiting)
local weight = tonumber(call('ZSCORE', P .. 'weight', s) or 0)
local gone, freed, more = 0, 0, false
while true do
  local first = oldest(s)
  if not first then break end
  local detail
  if ms_of(first) <= NOW - tonumber(ARGV[2]) then detail = ARGV[6]
  elseif count - gone > tonumber(ARGV[3]) then detail = ARGV[7]
  elseif weight - freed > tonumber(ARGV[4]) then detail = ARGV[8] end
  if not detail then break end
  if gone == tonumber(ARGV[5]) then
    more = true
    break
  end
  local tries = tonumber(call('HGET', P .. 'tries:' .. s, first) or 0)
  call('ZREM', waiting, first)
  call('HDEL', P .. 'tries:' .. s, first)
  die(s, first, tries, cjson.encode({ reason = 'expired', code = '', detail = detail }))
  gone, freed = gone + 1, freed + size_of(first)
end
weigh(s, -freed)
if not more then call('SREM', P .. 'over', s) end
redate(s, h)
return { gone, more and 1 or 0 }
