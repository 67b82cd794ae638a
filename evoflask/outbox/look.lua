-- look: what is known of lanes, at one moment each.
--
--   lane:<s>  hash      waiting:<s>  zset      dying:<s>, tries:<s>  hash      weight      due, alone
--
-- Atomic because the books can only be checked against counts of the same moment.
--
-- ARGV: s ... Answers for each {facts (flat), waiting, dying, weight, date|'', oldest member|'',
-- retrying, head|'', tries of the head}.

local out = { NOW }
for _, s in ipairs(ARGV) do
  local h = lane(s)
  local first, next_ = oldest(s), head(s, h)
  local tries = next_ and tonumber(call('HGET', P .. 'tries:' .. s, next_) or 0)
  local d = ''
  if h.sink then
    d = call('ZSCORE', P .. 'due:' .. h.sink, s) or call('ZSCORE', P .. 'alone:' .. h.sink, s) or ''
  end
  out[#out + 1] = { call('HGETALL', P .. 'lane:' .. s), call('ZCARD', P .. 'waiting:' .. s),
    call('HLEN', P .. 'dying:' .. s), call('ZSCORE', P .. 'weight', s) or '0', d, first or '',
    call('HLEN', P .. 'tries:' .. s), next_ or '', tries or 0 }
end
return out
