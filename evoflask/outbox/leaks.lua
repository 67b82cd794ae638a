-- leaks: entries past the edge of retention that nobody has. For the audit.
--
--   config:<i>  hash   outbox:<i>  stream   waiting:<s>, dying:<s>, sweep  read
--
-- Atomic because an entry leaves its last lane and the outbox in one step. Writes nothing.
--
-- ARGV: i, the entry to go on after ('-' at first), entries at most
-- Answers {looked at, last entry or '' at the edge, entries in all, edge, kept, leaks ...}.

local i, after, n = ARGV[1], ARGV[2], ARGV[3]
local c = call('HMGET', P .. 'config:' .. i, 'edge', 'kept', 'gone')
local edge, kept = c[1] or '0-0', tonumber(c[2] or 0)
local out = { 0, '', call('XLEN', P .. 'outbox:' .. i), edge, kept }
if c[3] then return out end

-- What was set aside, by a lane's end or a purge, has its entries until it is swept. Where that
-- is very much, nothing is said of those lanes: it would take too long to look.
local MUCH = 1000
local aside, much = {}, call('SCARD', P .. 'sweep') > MUCH
if not much then
  for _, what in ipairs(call('SMEMBERS', P .. 'sweep')) do
    local s = string.match(what, ' gone:(%w+):')
    if s then aside[s] = true end
  end
end
local function swept(to)
  if much then return false end
  for s in string.gmatch(to, '(%w+):%S*') do
    if aside[s] then return false end
  end
  return true
end

local from = after == '-' and '-' or '(' .. after
local rows = call('XRANGE', P .. 'outbox:' .. i, from, edge, 'COUNT', n)
for _, row in ipairs(rows) do
  local to = field(row[2], 'to')
  if not has(to, row[1], field(row[2], 'size')) and swept(to) then out[#out + 1] = row[1] end
  out[2] = row[1]
end
out[1] = #rows
return out
