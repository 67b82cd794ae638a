-- inspect: whether the entries of a lane are where the lane says. For the audit.
--
--   waiting:<s>  zset   dying:<s>, tries:<s>  hash   outbox:<i>  stream   body:<i>:<e>  string
--
-- Atomic because an entry leaves its last lane and the outbox in one step: what was settled
-- since the caller saw it is no fault. Writes nothing.
--
-- ARGV: s, members ... Answers {member, fault, ...}.

local s = ARGV[1]
local out = {}
local h = lane(s)
if not h.sink then return out end

local function fault_of(member)
  local waits = call('ZSCORE', P .. 'waiting:' .. s, member)
  local dies = call('HEXISTS', P .. 'dying:' .. s, member) == 1
  if not waits and call('HEXISTS', P .. 'tries:' .. s, member) == 1 then return 'tries' end
  if not waits and not dies then return nil end
  if waits and dies then return 'twice' end
  local id = entry_of(member)
  local rows = call('XRANGE', P .. 'outbox:' .. h.i, id, id)
  if not rows[1] then return 'entry' end
  local key = string.match(member, ':%d+:(.*)$')
  local to = ' ' .. field(rows[1][2], 'to') .. ' '
  if not string.find(to, ' ' .. s .. ':' .. key .. ' ', 1, true) then return 'to' end
  if tonumber(field(rows[1][2], 'size')) ~= size_of(member) then return 'size' end
  if not field(rows[1][2], 'data')
    and call('EXISTS', P .. 'body:' .. h.i .. ':' .. id) == 0 then return 'body' end
end

for a = 2, #ARGV do
  local fault = fault_of(ARGV[a])
  if fault then
    out[#out + 1] = ARGV[a]
    out[#out + 1] = fault
  end
end
return out
