-- bytes: a page of what an outbox stores, and the sum that is kept of it. For the audit.
--
--   outbox:<i>, unwanted:<i>  streams      stored  zset      read
--
-- Atomic because the first and the last page say by one moment each if something changed between.
-- Writes nothing.
--
-- ARGV: i, the entry to go on after ('-' at first), entries at most
-- Answers {looked at, last entry, bytes, bytes as they are kept, newest entry}. The last page has
-- the bytes of the unwanted events, too.

local i, n = ARGV[1], tonumber(ARGV[3])
local rows = call('XRANGE', P .. 'outbox:' .. i, ARGV[2] == '-' and '-' or '(' .. ARGV[2], '+', 'COUNT', n)
local sum = 0
for _, row in ipairs(rows) do sum = sum + tonumber(field(row[2], 'w') or 0) end
if #rows < n then
  for _, row in ipairs(call('XRANGE', P .. 'unwanted:' .. i, '-', '+')) do
    sum = sum + unwanted_bytes(row[2])
  end
end
local newest = call('XREVRANGE', P .. 'outbox:' .. i, '+', '-', 'COUNT', 1)[1]
return { #rows, rows[1] and rows[#rows][1] or '', sum,
  tonumber(call('ZSCORE', P .. 'stored', i) or 0), newest and newest[1] or '' }
