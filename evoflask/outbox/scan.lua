-- scan: entries of an outbox in their order, for a replay, one page a call.
--
--   outbox:<i>  stream  entries
--
-- Atomic for nothing: it writes nothing, and an entry of the answer may be gone a moment later.
-- A script because only ids and sizes leave Redis. An event that was requeued or replayed lies
-- there once more: by time only its acceptance counts, by id the first that is left.
--
-- ARGV: i, the entry behind which to begin, the last entry, entries a call, events (JSON; empty:
-- all), ids (JSON; empty: all of that time). Answers {where to go on|'', entry, size, event's id, ...}.

local i, after, last, n = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local STEP, READ, BYTES = 20, 400, 1024 * 1024 -- entries of a read, of a call, and bytes of a call

local function set(text)
  local found, any = {}, false
  for _, name in ipairs(cjson.decode(text)) do
    found[name], any = true, true
  end
  return any and found
end

local events, ids = set(ARGV[5]), set(ARGV[6])
local out, seen, bytes, found = { '' }, 0, 0, 0
while seen < READ do
  local rows = call('XRANGE', P .. 'outbox:' .. i, '(' .. after, last, 'COUNT', STEP)
  for _, row in ipairs(rows) do
    local id, size = field(row[2], 'id'), tonumber(field(row[2], 'size'))
    local meant = ids and ids[id] or not ids and field(row[2], 'mode') == 'routed'
    if found > 0 and (bytes + size > BYTES or (meant and found == n)) then
      out[1] = after
      return out
    end
    bytes, after = bytes + size, row[1]
    if meant and (not events or events[field(row[2], 'event')]) then
      found = found + 1
      out[#out + 1], out[#out + 2], out[#out + 3] = row[1], size, id
      if ids then ids[id] = nil end
    end
  end
  if #rows < STEP then return out end
  seen = seen + #rows
  if bytes > BYTES then break end
end
out[1] = after
return out
