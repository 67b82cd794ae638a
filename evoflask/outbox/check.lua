-- check: what does not hold of lanes, at one moment each. For the audit.
--
--   lane:<s>  hash   waiting:<s>  zset   dying:<s>  hash   due, alone, oldest, weight, graves
--
-- Atomic because dates, weights and graves can only be checked against what lies on the lane
-- at the same moment. Writes nothing.
--
-- ARGV: s ... Answers for each a list of words; a lane that is not there has none.

local out = {}
for _, s in ipairs(ARGV) do
  local faults = {}
  local h = lane(s)
  if h.sink then
    local first = front(s)
    local expected = date(s, h, first)
    local due = call('ZSCORE', P .. 'due:' .. h.sink, s)
    local alone = call('ZSCORE', P .. 'alone:' .. h.sink, s)
    if due and alone then faults[#faults + 1] = 'dated twice' end
    if expected and not due and not alone then faults[#faults + 1] = 'undated' end
    local there = tonumber(due or alone or 0)
    if expected and there > math.max(expected, NOW) + 1000 then
      faults[#faults + 1] = 'dated too late'
    end
    local weight = tonumber(call('ZSCORE', P .. 'weight', s) or 0)
    if (weight > 0) ~= (first[1] ~= nil) then faults[#faults + 1] = 'weight' end
    if first[1] and not call('ZSCORE', P .. 'oldest:' .. h.sink, s) then
      faults[#faults + 1] = 'unaged'
    end
    if call('HLEN', P .. 'dying:' .. s) > 0 and call('SISMEMBER', P .. 'graves', s) == 0 then
      faults[#faults + 1] = 'no grave'
    end
  end
  out[#out + 1] = faults
end
return out
