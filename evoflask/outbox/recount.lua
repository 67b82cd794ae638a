-- recount: bring the stored bytes of an instance in line with its outbox, a piece a call.
--
--   outbox:<i>, unwanted:<i>  streams  read       stored, storing  bytes of the outbox, of all
--   recount  hash  how far this came: i, after (an entry), sum (bytes up to that entry)
--   prints:<i>  hash  - some fingerprints whose id is gone       seen:<i>  zset  read
--
-- Atomic because the sum is written in the call that reads the newest entry. Entries that are
-- appended meanwhile come after the piece that was read. `erase` takes an entry off `recount` if it
-- was read already. A release that knows no sums erases without that: the next recount corrects it.
--
-- ARGV: i, entries at most. Answers {done (1|0), bytes as they were kept, bytes found}.

unblock()
local i, n = ARGV[1], tonumber(ARGV[2])
local r = call('HMGET', P .. 'recount', 'i', 'after', 'sum')
local after, sum = '-', 0
if r[1] == i then after, sum = '(' .. r[2], tonumber(r[3]) end
local rows = call('XRANGE', P .. 'outbox:' .. i, after, '+', 'COUNT', n)
for _, row in ipairs(rows) do sum = sum + tonumber(field(row[2], 'w') or 0) end
local kept = tonumber(call('ZSCORE', P .. 'stored', i) or 0)
if #rows == n then
  call('HSET', P .. 'recount', 'i', i, 'after', rows[n][1], 'sum', string.format('%.0f', sum))
  return { 0, kept, 0 }
end
call('DEL', P .. 'recount')
for _, row in ipairs(call('XRANGE', P .. 'unwanted:' .. i, '-', '+')) do
  sum = sum + unwanted_bytes(row[2])
end
store(i, sum - kept)
-- An older release forgets an id and leaves its fingerprint.
local prints, seen = P .. 'prints:' .. i, P .. 'seen:' .. i
if call('HLEN', prints) > call('ZCARD', seen) then
  for _, id in ipairs(call('HRANDFIELD', prints, 1000)) do
    if not call('ZSCORE', seen, id) then call('HDEL', prints, id) end
  end
end
return { 1, kept, sum }
