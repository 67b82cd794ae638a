-- trim: move the edge of an instance's retention by a bounded number of entries.
--
--   config:<i>  hash  edge, kept      outbox:<i>  stream  - entries      body:<i>:<e>  string
--   unwanted:<i>  stream  - events
--   waiting:<s>, dying:<s>  read      aging  zset  the next date     stored, storing  bytes
--
-- Atomic because an entry must not be deleted while a lane has it.
--
-- ARGV: i, retain entries, retain ms, entries at most. Answers {moved over, more (1|0)}.

unblock()
local c = call('HMGET', P .. 'config:' .. ARGV[1], 'revision', 'gone')
if not c[1] or c[2] then
  call('ZREM', P .. 'aging', ARGV[1])
  return { 0, 0 }
end
local moved, more = trim(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), 0)
return { moved, more and 1 or 0 }
