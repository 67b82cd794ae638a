-- sweep: clear away, a bounded piece at a time, what was set aside.
--
--   sweep  set of `<i> gone:<s>:waiting` | `<i> gone:<s>:dying` | `<i> outbox`
--   outbox:<i>  stream, body:<i>:<e>  - entries that no lane has any more     stored, storing
--   seen:<i>, prints:<i>, unwanted:<i>  of a deleted instance: an older release leaves some
--
-- Atomic because an entry that leaves its last lane past retention must be deleted then.
--
-- ARGV: entries at most. Answers how many it looked at; 0 when nothing is left.

unblock()
local what = call('SRANDMEMBER', P .. 'sweep')
if not what then return 0 end
local i, part = string.match(what, '^(%w+) (.+)$')
local n = tonumber(ARGV[1])
local members = {}
local edge = call('HGET', P .. 'config:' .. i, 'edge')
if part == 'outbox' then
  local rows = call('XRANGE', P .. 'outbox:' .. i, '-', '+', 'COUNT', math.min(n, 100))
  local freed = 0
  for _, row in ipairs(rows) do
    freed = freed + erase(i, row[1], row[2])
    members[#members + 1] = row[1]
  end
  store(i, -freed)
elseif string.find(part, ':waiting$') then
  members = call('ZRANGE', P .. part, 0, n - 1)
  if #members > 0 then call('ZREM', P .. part, unpack(members)) end
  release(i, members, edge)
else
  members = call('HRANDFIELD', P .. part, n)
  if #members > 0 then call('HDEL', P .. part, unpack(members)) end
  release(i, members, edge)
end
if #members == 0 then
  call('DEL', P .. (part == 'outbox' and 'outbox:' .. i or part))
  if part == 'outbox' then
    call('UNLINK', P .. 'seen:' .. i, P .. 'prints:' .. i, P .. 'unwanted:' .. i)
    store_nothing(i)
  end
  call('SREM', P .. 'sweep', what)
end
return math.max(#members, 1)
