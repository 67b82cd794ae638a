-- share: tell how many lanes of a sink have a backlog in this drain's hands, and hear it of the
-- others.
--
--   drains:<sink>  hash  a drain's id: "<until, ms> <lanes>"; expires
--
-- A script because a full Redis would refuse a plain HSET, and so that what is over goes.
--
-- ARGV: sink, drain, ms (0: it sleeps), lanes. Answers the lanes of each other drain.

unblock()
local key, ms = P .. 'drains:' .. ARGV[1], tonumber(ARGV[3])
if ms > 0 then
  call('HSET', key, ARGV[2], string.format('%.0f ', NOW + ms) .. ARGV[4])
  call('PEXPIRE', key, ms)
else
  call('HDEL', key, ARGV[2])
end
local out, all = {}, call('HGETALL', key)
for n = 1, #all, 2 do
  local till, lanes = string.match(all[n + 1], '^(%d+) (%d+)$')
  if tonumber(till) <= NOW then
    call('HDEL', key, all[n])
  elseif all[n] ~= ARGV[2] then
    out[#out + 1] = tonumber(lanes)
  end
end
return out
