-- purge: set the whole backlog of a lane aside, to be swept; the lane goes on, empty.
--
--   waiting:<s>  zset  renamed to gone:<s>:<n>:waiting     sweep  set     tries:<s>, early:<s>  hash
--   lane:<s>  hash  books     due, alone, oldest, weight, weighing, over     wake:<sink>  channel
--
-- Atomic because the count that was confirmed is the count of what goes, and is in the books.
-- Entries in `dying` were given up before: they get their letters.
--
-- ARGV: s, the backlog that the operator saw. Answers {'unknown'}, {'other', backlog} or
-- {'ok', discarded, bytes}.

unblock()
local s = ARGV[1]
local h = lane(s)
if not h.sink then return { 'unknown' } end
local waiting = P .. 'waiting:' .. s
local n = call('ZCARD', waiting)
if n ~= tonumber(ARGV[2]) then return { 'other', n } end
if n == 0 then return { 'ok', 0, 0 } end
-- A name of its own: the purge before may not be swept yet.
local gone = 'gone:' .. s .. ':' .. call('HINCRBY', P .. 'lane:' .. s, 'purges', 1) .. ':waiting'
call('RENAME', waiting, P .. gone)
call('SADD', P .. 'sweep', h.i .. ' ' .. gone)
call('UNLINK', P .. 'tries:' .. s)
forget_early(s)
local weight = tonumber(call('ZSCORE', P .. 'weight', s) or 0)
weigh(s, -weight)
call('SREM', P .. 'over', s)
book(s, h.sink, 'discarded', n)
redate(s, h)
if h.token then call('PUBLISH', P .. 'wake:' .. h.sink, s .. ' anew') end
return { 'ok', n, weight }
