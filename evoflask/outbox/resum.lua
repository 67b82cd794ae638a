-- resum: bring the stored bytes of all instances in line with those of each.
--
--   stored  zset  read        storing  string  its sum
--
-- Atomic because each change of `stored` changes `storing`, too.
--
-- ARGV: instances at most; with more the sum stays as it is, because reading takes too long.
-- Answers {the sum as it was, the sum now}.

unblock()
local was = tonumber(call('GET', P .. 'storing') or 0)
if call('ZCARD', P .. 'stored') > tonumber(ARGV[1]) then return { was, was } end
local sum = 0
local rows = call('ZRANGE', P .. 'stored', 0, -1, 'WITHSCORES')
for r = 2, #rows, 2 do sum = sum + tonumber(rows[r]) end
if sum ~= was then call('INCRBY', P .. 'storing', string.format('%.0f', sum - was)) end
return { was, sum }
