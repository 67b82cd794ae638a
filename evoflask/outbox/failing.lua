-- failing: lanes whose attempts fail, or work again after somebody was told that they do not.
--
--   failing   zset  lanes by when to look at them       lane:<s>  hash  read
--
-- Atomic because a lane is looked at again later, or taken off because nothing fails any more:
-- a failure that comes between the two would be seen by nobody.
--
-- ARGV: lanes at most, ms until the next look at each
-- Answers {now ms, {s, i, on (1|0), fails, since, until, told, well, last error}, ...}.

unblock()
local out = { NOW }
local again = NOW + tonumber(ARGV[2])
for _, s in ipairs(call('ZRANGEBYSCORE', P .. 'failing', '-inf', NOW, 'LIMIT', 0, ARGV[1])) do
  local f = { 'i', 'on', 'fails', 'since', 'until', 'told', 'well', 'error', 'stop' }
  local v = call('HMGET', P .. 'lane:' .. s, unpack(f))
  local works = v[2] == '1' and v[9] ~= '1'
  if v[1] and (v[7] or v[6] == 'disabling' or (v[3] and works)) then
    call('ZADD', P .. 'failing', again, s)
    out[#out + 1] = { s, v[1], works and 1 or 0, tonumber(v[3] or 0), tonumber(v[4] or 0),
      tonumber(v[5] or 0), v[6] or '', tonumber(v[7] or 0), v[8] or '' }
  else
    -- Deleted, or nothing is tried there: its next failure puts it back.
    call('ZREM', P .. 'failing', s)
  end
end
return out
