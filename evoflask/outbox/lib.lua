-- Shared by every verb: it is put in front of each script.
--
-- KEYS[1] is the prefix of the partition, `evo:{pN}:`. It is no key itself, but it carries
-- the hash tag, so that a cluster runs the script where all keys of the partition are.
-- What a script touches is drawn at its own head.
--
-- A member of a lane is `<ms, 13 digits>-<seq, 10 digits>:<size>:<key>`: text that sorts as
-- the entries were appended, with the bytes that the entry weighs and a hash of its order
-- key in this lane. So whoever takes a member off a lane knows what to take off the books
-- without reading the entry, and a drain knows what may start without reading a body.

local P = KEYS[1]
local call = redis.call
local TIME = call('TIME')
local NOW = TIME[1] * 1000 + math.floor(TIME[2] / 1000)
local QUARANTINE = 3 -- holds lost in a row, after which a lane runs alone
-- What retention leaves to an instance with websockets, however short memory is: the web
-- process reads an entry some milliseconds after it was appended.
local FLOOR, FLOOR_MS = 8, 2000
-- About the bytes that Redis adds to an entry's own, and the bytes for each lane that has it.
local ENTRY_BYTES, MEMBER_BYTES = 64, 160
-- Unwanted events that are kept of an instance, how many more until append forgets the oldest, and
-- how much longer than for the retention their key lasts where no clock forgets them.
local UNWANTED, UNWANTED_MORE, UNWANTED_MS = 1000, 64, 60000
-- A smaller lane does not give way and is not refused, unless there are very many lanes.
local LANE_BYTES = 65536

-- On a full Redis a script whose first write frees memory runs through, and one whose first
-- write takes memory is refused. Verbs that must always work begin with this.
local function unblock()
  call('DEL', P .. 'nothing')
end

local function padded(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.rep('0', 13 - #ms) .. ms .. '-' .. string.rep('0', 10 - #seq) .. seq
end

local function entry_of(member)
  local ms, seq = string.match(member, '^(%d+)-(%d+)')
  return string.format('%.0f-%.0f', tonumber(ms), tonumber(seq))
end

local function ms_of(member)
  return tonumber(string.sub(member, 1, 13))
end

local function size_of(member)
  return tonumber(string.match(member, ':(%d+):'))
end

-- Count what left or came to a lane, for the lane and for its sink.
local function book(s, sink, what, n)
  if n ~= 0 then
    call('HINCRBY', P .. 'lane:' .. s, what, n)
    call('HINCRBY', P .. 'totals', sink .. ':' .. what, n)
  end
end

-- Add bytes to a member of a zset and to the sum of all members. Answers what the member has now.
local function tally(zset, sum, member, bytes)
  local left = tonumber(call('ZINCRBY', P .. zset, bytes, member))
  call('INCRBY', P .. sum, bytes)
  if left <= 0 then
    call('ZREM', P .. zset, member)
    if left < 0 then call('INCRBY', P .. sum, -left) end
  end
  return left
end

-- Answers the weight of the lane now, or nil if `bytes` is 0.
local function weigh(s, bytes)
  if bytes ~= 0 then return tally('weight', 'weighing', s, bytes) end
end

-- Count the bytes of an outbox' entries by their field `w`. Entries of older releases have none and
-- are not counted.
local function store(i, bytes)
  if bytes ~= 0 then tally('stored', 'storing', i, bytes) end
end

-- The outbox is empty: correct what older releases took off without counting.
local function store_nothing(i)
  if call('EXISTS', P .. 'unwanted:' .. i) == 1 then return end
  store(i, -tonumber(call('ZSCORE', P .. 'stored', i) or 0))
end

-- Answers the bytes that each of `count` lanes keeps even if memory is short.
local function least(room, count)
  return math.min(LANE_BYTES, room / 2 / math.max(count, 1))
end

-- Answers {ours, room, full}, or nil if less than `share` of maxmemory is used.
--
-- `ours`: bytes of our entries and of an empty Redis. `room`: the bytes that they may have, which is
-- maxmemory without the keys of others. Clients' output buffers come and go, so they take no room.
-- `full`: Redis refuses writes, by its own count that includes them. `bytes`: bytes to be added.
local function pressure(bytes, share)
  local info = call('INFO', 'memory')
  local function said(name) return tonumber(string.match(info, name .. ':(%d+)')) or 0 end
  local max, used = said('maxmemory'), said('used_memory') + bytes
  if max == 0 or used <= max * share then return nil end
  local counted = used - said('mem_not_counted_for_evict')
  -- The bytes to be added are in the buffer of the request already.
  local keys = math.max(counted - bytes - said('mem_clients_normal'), 0)
  local entries = math.max(tonumber(call('GET', P .. 'storing') or 0),
    tonumber(call('GET', P .. 'weighing') or 0)) + bytes
  local own = said('used_memory_startup') + said('used_memory_scripts')
  local ours = math.min(entries + own, keys)
  return { ours, max - (keys - ours), counted > max }
end

-- The one function that gives a lane's date: ms, or nil when nobody need look at it.
local function date(s, h, first)
  if h.on ~= '1' or h.stop == '1' or not first[1] then return nil end
  if h.token then return tonumber(h['end']) end
  local pause = tonumber(h['until'] or 0)
  if pause > NOW then return pause end
  if pause > 0 then return NOW end -- a probe goes before the dates of retries
  if h.wait == '1' and tonumber(first[2]) == 0 then
    -- What failed comes before anything new.
    local key = P .. 'waiting:' .. s
    local failed = call('ZRANGEBYSCORE', key, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if failed[1] then first = failed end
  end
  return math.max(tonumber(first[2]), NOW)
end

local function quarantined(h)
  return tonumber(h.lost or 0) >= QUARANTINE
end

-- A lane's facts, those named `...` among them; `alone`: in which of the two it was dated.
local function lane(s, ...)
  local f = { 'i', 'sink', 'on', 'stop', 'token', 'end', 'until', 'lost', 'wait', 'hungry',
    'fails', 'told', ... }
  local v = call('HMGET', P .. 'lane:' .. s, unpack(f))
  local h = {}
  for n = 1, #f do h[f[n]] = v[n] or nil end
  h.alone = quarantined(h)
  return h
end

-- What is first on a lane, with its date.
local function front(s)
  return call('ZRANGE', P .. 'waiting:' .. s, 0, 0, 'WITHSCORES')
end

-- Date the lane: when a drain looks at it, and when it next reaches its limit of age. `same`:
-- its front, where that is what it was when the lane was dated last.
local function redate(s, h, same)
  local first = same or front(s)
  local d = date(s, h, first)
  local alone = quarantined(h)
  local due = P .. (alone and 'alone:' or 'due:') .. h.sink
  if d then call('ZADD', due, d, s) else call('ZREM', due, s) end
  if alone ~= h.alone then
    call('ZREM', P .. (alone and 'due:' or 'alone:') .. h.sink, s)
    h.alone = alone
  end
  if same then return d end
  if first[1] then
    call('ZADD', P .. 'oldest:' .. h.sink, ms_of(first[1]), s)
  else
    call('ZREM', P .. 'oldest:' .. h.sink, s)
  end
  return d
end

-- Take an entry off the outbox that nobody has any more. `to` is `lane:key lane:key`.
local function has(to, id, size)
  for s, key in string.gmatch(to, '(%w+):(%S*)') do
    local member = padded(id) .. ':' .. size .. ':' .. key
    if call('ZSCORE', P .. 'waiting:' .. s, member) then return true end
    if call('HEXISTS', P .. 'dying:' .. s, member) == 1 then return true end
  end
  return false
end

local function field(row, name)
  for n = 1, #row, 2 do
    if row[n] == name then return row[n + 1] end
  end
end

-- How far a recount of an instance's bytes has come (recount.lua), padded; '' if none is under way.
local recounted = {}
local function recounted_up_to(i)
  if not recounted[i] then
    local r = call('HMGET', P .. 'recount', 'i', 'after')
    recounted[i] = r[1] == i and padded(r[2]) or ''
  end
  return recounted[i]
end

-- Delete an entry. Answers the bytes counted for it, which the caller takes off by `store`.
local function erase(i, id, fields)
  call('XDEL', P .. 'outbox:' .. i, id)
  call('DEL', P .. 'body:' .. i .. ':' .. id)
  local bytes = tonumber(field(fields, 'w') or 0)
  if bytes > 0 and padded(id) <= recounted_up_to(i) then
    call('HINCRBY', P .. 'recount', 'sum', -bytes)
  end
  return bytes
end

-- After members left a lane for good: delete those entries that are past retention, up to
-- `edge`, and that no other lane of the instance has.
local function release(i, members, edge)
  if not edge then return end
  edge = padded(edge)
  local freed = 0
  for _, member in ipairs(members) do
    if string.sub(member, 1, 24) <= edge then
      local id = entry_of(member)
      local rows = call('XRANGE', P .. 'outbox:' .. i, id, id)
      if rows[1] and not has(field(rows[1][2], 'to'), id, size_of(member)) then
        freed = freed + erase(i, id, rows[1][2])
      end
    end
  end
  store(i, -freed)
end

-- Keep that no subscription wanted an event, and why. Answers the bytes, which are not counted yet.
local function keep_unwanted(i, id, event, why)
  call('XADD', P .. 'unwanted:' .. i, '*', 'id', id, 'event', event, 'why', why)
  return #id + #event + #why + ENTRY_BYTES
end

local function unwanted_bytes(fields)
  return #fields[2] + #fields[4] + #fields[6] + ENTRY_BYTES
end

-- Forget at most `n` unwanted events: those older than `age`, and the oldest beyond `most`.
-- Answers the bytes that the caller takes off by `store`, and the date of the oldest that is left.
local function forget_unwanted(i, most, age, n)
  local key = P .. 'unwanted:' .. i
  local count = call('XLEN', key)
  if count == 0 then return 0, nil end
  local beyond = count - math.min(most, UNWANTED)
  local gone, freed, left = {}, 0, nil
  for r, row in ipairs(call('XRANGE', key, '-', '+', 'COUNT', n + 1)) do
    local ms = tonumber(string.match(row[1], '^%d+'))
    if r > n or (r > beyond and ms > NOW - age) then
      left = ms
      break
    end
    gone[r] = row[1]
    freed = freed + unwanted_bytes(row[2])
  end
  if gone[1] then call('XDEL', key, unpack(gone)) end
  if gone[1] and not left then call('UNLINK', key) end
  return freed, left
end

-- Move the edge of retention over at most `n` entries, each deleted unless a lane has it.
-- `ws` counts what websockets got of this instance, where it has any. Unwanted events go by the
-- same limits.
-- `added`: bytes put on the outbox that are not counted yet.
-- Answers how many it moved over, and whether more are past retention.
local function trim(i, retain, age, n, added)
  local config = P .. 'config:' .. i
  local c = call('HMGET', config, 'edge', 'kept', 'ws')
  local edge, kept = c[1] or '0-0', tonumber(c[2] or 0)
  local unwanted, fades = forget_unwanted(i, retain, age, n)
  fades = fades and fades + age
  local late = fades and fades <= NOW
  if c[3] then retain, age = math.max(retain, FLOOR), math.max(age, FLOOR_MS) end
  local rows = call('XRANGE', P .. 'outbox:' .. i, '(' .. edge, '+', 'COUNT', n + 1)
  local moved, freed = 0, 0
  local nxt
  for _, row in ipairs(rows) do
    local ms = tonumber(string.match(row[1], '^%d+'))
    if moved == n or not (kept > retain or ms <= NOW - age) then
      nxt = ms
      break
    end
    edge, kept, moved = row[1], kept - 1, moved + 1
    if not has(field(row[2], 'to'), row[1], field(row[2], 'size')) then
      freed = freed + erase(i, row[1], row[2])
    end
  end
  store(i, added - freed - unwanted)
  if moved > 0 then call('HSET', config, 'edge', edge, 'kept', kept) end
  local leaves = nxt and nxt + age
  if leaves or fades then
    call('ZADD', P .. 'aging', math.min(leaves or fades, fades or leaves), i)
  else
    call('ZREM', P .. 'aging', i)
    if call('XLEN', P .. 'outbox:' .. i) == 0 then store_nothing(i) end
  end
  return moved, late or (nxt ~= nil and moved == n)
end

-- Answers the date and the cause of a retry that came forward: `probe`, `change` or `recovery`. A
-- mark has the tries of that moment; one with other tries is outdated and answers nothing.
local function read_mark(mark, tries)
  local was, d, cause = string.match(mark or '', '^(%d+) (%d+) (%a+)$')
  if was and tonumber(was) == tonumber(tries or 0) then return tonumber(d), cause end
end

local function mark_early(s, member, tries, d, cause)
  local mark = string.format('%d %.0f %s', tonumber(tries or 0), d, cause)
  call('HSET', P .. 'early:' .. s, member, mark)
end

local function forget_early(s)
  call('UNLINK', P .. 'early:' .. s)
  call('HDEL', P .. 'lane:' .. s, 'early', 'recall', 'recalled')
end

-- Bring the next retries of a lane forward, oldest entry first: RECALL_N a call, one each RECALL_MS.
-- `recall` is the date at which the call before stopped, `recalled` the date of its last retry. A
-- failure of such a try charges nothing and restores its date (settle). A recovery brings each
-- retry forward once. A change of settings also brings those forward that a recovery did.
local RECALL_N, RECALL_MS = 50, 50
local function recall(s, h, cause)
  local waiting, key = P .. 'waiting:' .. s, P .. 'lane:' .. s
  local from = string.format('(%.0f', tonumber(h.recall))
  local rows = call('ZRANGEBYSCORE', waiting, from, '+inf', 'WITHSCORES', 'LIMIT', 0, RECALL_N)
  local members, dates = {}, {}
  for r = 1, #rows, 2 do
    members[#members + 1] = rows[r]
    dates[rows[r]] = tonumber(rows[r + 1])
  end
  if #members == RECALL_N then
    h.recall = dates[members[#members]]
    call('HSET', key, 'recall', string.format('%.0f %s', h.recall, cause))
  else
    h.recall = nil
    call('HDEL', key, 'recall')
  end
  if not members[1] then return end
  table.sort(members)
  local tries = call('HMGET', P .. 'tries:' .. s, unpack(members))
  local marks = h.early and call('HMGET', P .. 'early:' .. s, unpack(members)) or {}
  local at = math.max(NOW, tonumber(h.recalled or 0))
  local first, moved = at, false
  for n, member in ipairs(members) do
    local own = read_mark(marks[n], tries[n])
    if not own or cause == 'change' then
      -- The digits of the entry spread them: luck is the same in each script.
      local d = at == first and at or at + ms_of(member) * 7 % RECALL_MS
      if d < dates[member] then
        mark_early(s, member, tries[n], own or dates[member], cause)
        call('ZADD', waiting, 'XX', d, member)
        moved = true
      end
      at = at + RECALL_MS
    end
  end
  if moved then
    h.early = '1'
    h.recalled = at
    call('HSET', key, 'early', 1, 'recalled', string.format('%.0f', at))
  end
end

-- The ids that a holder gets next: at most `n`, half of them retries that are due, half new
-- ones after `cursor`; a half uses what the other leaves. `new` and `old` say how many new
-- ones and retries the holder has in hand already (they are still on the lane).
-- Answers two flat lists: member, tries, ... and, of ids before their date, member, cause, ...
local function window(s, h, n, cursor, new, old)
  local key = P .. 'waiting:' .. s
  local failed = call('ZRANGEBYSCORE', key, '(0', NOW, 'LIMIT', 0, n + old)
  local fresh = {}
  if h.wait == '1' and call('ZCOUNT', key, '(0', '+inf') > 0 then
    -- The lane waits for what failed: nothing new, and the oldest first.
    table.sort(failed)
  else
    -- What was handed out is a beginning of the new ones: new entries come at the end and
    -- never become new again. `new` is how long it was; an operator may have shortened it.
    local from = math.max(new - 1, 0)
    local rows = call('ZRANGE', key, from, new + n, 'WITHSCORES')
    if from > 0 and (not rows[1] or tonumber(rows[2]) > 0 or rows[1] > cursor) then
      rows = call('ZRANGE', key, 0, new + n, 'WITHSCORES')
    end
    for r = 1, #rows, 2 do
      if tonumber(rows[r + 1]) > 0 then break end
      if rows[r] > cursor and #fresh < n then fresh[#fresh + 1] = rows[r] end
    end
  end
  local half = math.floor(n / 2)
  local nfresh = math.min(#fresh, math.max(half, n - math.max(#failed - old, 0)))
  local nfailed = math.min(#failed, n - nfresh + old)
  local out, early = {}, {}
  if nfailed > 0 then
    local handed = {}
    for r = 1, nfailed do handed[r] = failed[r] end
    local tries = call('HMGET', P .. 'tries:' .. s, unpack(handed))
    local marks = h.early and call('HMGET', P .. 'early:' .. s, unpack(handed)) or {}
    for r = 1, nfailed do
      out[#out + 1] = handed[r]
      out[#out + 1] = tonumber(tries[r] or 0)
      local d, cause = read_mark(marks[r], tries[r])
      if d and d > NOW then
        early[#early + 1] = handed[r]
        early[#early + 1] = cause
      end
    end
  end
  for r = 1, nfresh do
    out[#out + 1] = fresh[r]
    out[#out + 1] = 0
  end
  return out, early
end

-- The oldest entry of a lane: the first that was never tried, or the retry that is next.
local function oldest(s)
  local key = P .. 'waiting:' .. s
  local first = call('ZRANGE', key, 0, 0)[1]
  local retry = first and call('ZRANGEBYSCORE', key, '(0', '+inf', 'LIMIT', 0, 1)[1]
  if retry and retry < first then return retry end
  return first
end

-- What holds a lane up, if anything does: its oldest entry; on one that waits for what failed,
-- that.
local function head(s, h)
  if h.wait == '1' then
    local key = P .. 'waiting:' .. s
    local retry = call('ZRANGEBYSCORE', key, '(0', '+inf', 'LIMIT', 0, 1)[1]
    if retry then return retry end
  end
  return oldest(s)
end

-- Give an entry up: off the lane, into `dying`, until its letter is written.
local function die(s, member, tries, why)
  call('HDEL', P .. 'early:' .. s, member)
  call('HSET', P .. 'dying:' .. s, member, tries .. ' ' .. why)
  call('SADD', P .. 'graves', s)
end
