-- fate: where deliveries are, each of one entry on one lane. It writes nothing.
--
--   waiting:<s>  zset      tries:<s>  hash      dying:<s>  hash
--
-- Atomic because a delivery that is on its way from one to the next is in exactly one of them.
--
-- ARGV: s, member ... Answers for each {score|'', how many stand before it, tries, dying|''}.

local out = {}
for a = 1, #ARGV, 2 do
  local s, member = ARGV[a], ARGV[a + 1]
  local score = call('ZSCORE', P .. 'waiting:' .. s, member) or ''
  local before = score ~= '' and call('ZRANK', P .. 'waiting:' .. s, member) or 0
  out[#out + 1] = { score, before, tonumber(call('HGET', P .. 'tries:' .. s, member) or 0),
    call('HGET', P .. 'dying:' .. s, member) or '' }
end
return out
