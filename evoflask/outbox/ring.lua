-- ring: which sinks need a bell, each counted as rung.
--
--   due:<sink>, alone:<sink>  zset  read       awake:<sink>  string  read
--   rung:<sink>  string  + expires in a second
--
-- Atomic so that a second of many looks rings one bell.
--
-- ARGV: sink ... Answers the sinks with something due and nobody awake, or overdue.

unblock()
local out = {}
for _, sink in ipairs(ARGV) do
  for _, z in ipairs({ 'due:', 'alone:' }) do
    local first = call('ZRANGE', P .. z .. sink, 0, 0, 'WITHSCORES')
    local d = first[2] and tonumber(first[2])
    if d and d <= NOW and (d < NOW - 1000 or call('EXISTS', P .. 'awake:' .. sink) == 0) then
      if call('SET', P .. 'rung:' .. sink, '1', 'PX', 1000, 'NX') then out[#out + 1] = sink end
    end
  end
end
return out
