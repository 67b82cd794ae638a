-- unlog: take batches of attempts off whose rows are written.
--
--   attempts  stream  - batches      logging  string  bytes of all batches
--
-- Atomic because the bytes are those of the batches that are there.
--
-- ARGV: ids of the stream ... Answers how many it took off.

unblock()
local bytes, gone = 0, 0
for _, id in ipairs(ARGV) do
  local rows = call('XRANGE', P .. 'attempts', id, id)
  if rows[1] then
    bytes = bytes + #(field(rows[1][2], 'rows') or '')
    gone = gone + call('XDEL', P .. 'attempts', id)
  end
end
if bytes > 0 then call('DECRBY', P .. 'logging', bytes) end
if call('XLEN', P .. 'attempts') == 0 then call('DEL', P .. 'attempts', P .. 'logging') end
return gone
