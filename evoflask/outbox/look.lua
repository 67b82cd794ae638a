-- look: what is known of lanes, at one moment each.
--
--   lane:<s>  hash      waiting:<s>  zset      dying:<s>, tries:<s>  hash      weight      due, alone
--
-- Atomic because the books can only be checked against counts of the same moment.
--
-- ARGV: s ... Answers for each {facts (flat), waiting, dying, weight, date|'', first member|'',
-- retrying}.

local out = { NOW }
for _, s in ipairs(ARGV) do
  local h = lane(s)
  local first = call('ZRANGE', P .. 'waiting:' .. s, 0, 0)[1]
  local retry = call('ZRANGEBYSCORE', P .. 'waiting:' .. s, '(0', '+inf', 'LIMIT', 0, 1)[1]
  if retry and retry < first then first = retry end
  local d = ''
  if h.sink then
    d = call('ZSCORE', P .. 'due:' .. h.sink, s) or call('ZSCORE', P .. 'alone:' .. h.sink, s) or ''
  end
  out[#out + 1] = { call('HGETALL', P .. 'lane:' .. s), call('ZCARD', P .. 'waiting:' .. s),
    call('HLEN', P .. 'dying:' .. s), call('ZSCORE', P .. 'weight', s) or '0', d, first or '',
    call('HLEN', P .. 'tries:' .. s) }
end
return out
