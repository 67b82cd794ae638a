-- find: look for a retained entry by its event's id, from the newest down, one page a call.
--
--   config:<i>  hash  the edge of retention      outbox:<i>  stream  entries
--
-- Atomic because an entry that is answered is one that was retained at that moment. It writes
-- nothing.
--
-- ARGV: i, event id, where to begin (`+`, an entry, or `(` and the entry that was looked at
-- last), where to end (0-0, or the first entry that need not be looked at), entries a call, 1:
-- also what lies before the edge, because a lane has it.
-- Answers {entry|'', where to go on|''}.

local i, wanted, from, floor, n = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local STEP, BYTES = 20, 1024 * 1024 -- entries of one read; what a call may read is bounded too

local edge = ARGV[6] ~= '1' and call('HGET', P .. 'config:' .. i, 'edge') or '0-0'
if padded(floor) > padded(edge) then edge = floor end
local seen, bytes = 0, 0
while seen < n and bytes < BYTES do
  local rows = call('XREVRANGE', P .. 'outbox:' .. i, from, '(' .. edge, 'COUNT', STEP)
  for _, row in ipairs(rows) do
    if field(row[2], 'id') == wanted then return { row[1], '' } end
    bytes = bytes + tonumber(field(row[2], 'size'))
  end
  if #rows < STEP then return { '', '' } end
  seen, from = seen + #rows, '(' .. rows[#rows][1]
end
return { '', from }
