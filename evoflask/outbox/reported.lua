-- reported: the operator was told of so many letters of a lane.
--
--   buried  hash  letters that the operator was not told of, by lane
--
-- Atomic because letters that came meanwhile stay to be told.
--
-- ARGV: s, n. Answers how many are left.

unblock()
local left = call('HINCRBY', P .. 'buried', ARGV[1], -tonumber(ARGV[2]))
if left <= 0 then call('HDEL', P .. 'buried', ARGV[1]) end
return math.max(left, 0)
