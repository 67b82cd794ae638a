-- probe: have the lane looked at now, whatever its pause or the date of its next retry.
--
--   lane:<s>  hash  until      waiting:<s>  zset  the earliest retry's date
--   due:<sink> | alone:<sink>, oldest:<sink>  dates       wake:<sink>  channel
--
-- Atomic because a pause that ended meanwhile, or a retry that was settled, must not come back.
--
-- ARGV: s. Answers unknown, off, stopped, empty or ok.

unblock()
local s = ARGV[1]
local h = lane(s)
if not h.sink then return 'unknown' end
if h.on ~= '1' then return 'off' end
if h.stop == '1' then return 'stopped' end
local waiting = P .. 'waiting:' .. s
if call('ZCARD', waiting) == 0 then return 'empty' end
if tonumber(h['until'] or 0) > NOW then
  -- It stays a pause that ended: what comes next is one probe, and its failure the next pause.
  h['until'] = NOW
  call('HSET', P .. 'lane:' .. s, 'until', NOW)
else
  local retry = call('ZRANGEBYSCORE', waiting, '(' .. NOW, '+inf', 'LIMIT', 0, 1)[1]
  if retry then call('ZADD', waiting, 'XX', NOW, retry) end
end
redate(s, h)
call('PUBLISH', P .. 'wake:' .. h.sink, h.token and s or '')
return 'ok'
