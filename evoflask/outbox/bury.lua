-- bury: the letters are written, so their entries leave `dying` and are counted dead.
--
--   dying:<s>  hash  - members     graves  set      lane:<s>  hash  books      totals
--   buried     hash  letters that the operator was not told of, by lane
--   outbox:<i>, body:<i>:<e>   - entries past retention that nobody has any more
--
-- Atomic because an entry is dying or in the books as dead, never both or neither.
--
-- ARGV: s, then members ... Answers how many it buried.

unblock()
local s = ARGV[1]
local h = lane(s)
local off = {}
for a = 2, #ARGV do
  if call('HDEL', P .. 'dying:' .. s, ARGV[a]) == 1 then off[#off + 1] = ARGV[a] end
end
if call('HLEN', P .. 'dying:' .. s) == 0 then call('SREM', P .. 'graves', s) end
if h.sink then
  book(s, h.sink, 'dead', #off)
  if #off > 0 then call('HINCRBY', P .. 'buried', s, #off) end
  release(h.i, off, call('HGET', P .. 'config:' .. h.i, 'edge'))
end
return #off
