-- append: accept events of one instance, all of this call or none.
--
--   config:<i>    hash    read: revision, edge          outbox:<i>       stream  + entries
--   seen:<i>      zset    caller-given ids              body:<i>:<e>     string  + large bodies
--   prints:<i>    hash    their fingerprints
--   waiting:<s>   zset    + members                     lane:<s>         hash    books, date
--   due:<sink>    zset    dates                         weight, weighing, oldest:<sink>, totals, aging
--   stored, storing       bytes of the outbox, of all
--   awake:<sink>, rung:<sink>  strings                  wake:<sink>      channel
--   feed, fed     stream, string  + one line, where websockets get something of this call
--   unwanted:<i>  stream  + events that no subscription gets
--
-- Atomic because 202 means that the entry is on the outbox AND on every lane it was routed
-- to AND in the books, by the configuration that holds at this moment. The feed's line is of
-- the same moment as what it tells of, so its order is the order of every outbox.
--
-- ARGV: i, revision, epoch, mode (routed|requeued), bytes of the call, inline limit,
--       seen ms, seen ids, retain entries, retain ms, soft share, hard share (of maxmemory),
--       entries a lane, bytes a lane, the instance's name, lines of the feed,
--       events a second (0: any number), how many may come at once,
--       then for each event: id, given (1|0), event, meta, data, size, to, websockets (1|0),
--       fingerprint of event name and data, if the id was given,
--       why no subscription gets it, if none does
--
-- Answers {'ok', positions of repeats, sinks to ring, positions of conflicts}, or a refusal.

local i, revision, epoch, mode = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local bytes, inline = tonumber(ARGV[5]), tonumber(ARGV[6])
local seen_ms, seen_ids = tonumber(ARGV[7]), tonumber(ARGV[8])
local rate, burst = tonumber(ARGV[17]), tonumber(ARGV[18])
local HEAD, STEP = 18, 10

local c = call('HMGET', P .. 'config:' .. i, 'revision', 'epoch', 'gone', 'ws', 'paid')
if not c[1] or c[3] then return { 'unknown' } end
if c[1] ~= revision or c[2] ~= epoch then return { 'stale' } end
if not ARGV[HEAD + 1] then return { 'ok', {}, {}, {} } end

-- The instance's rate, by the generic cell rate algorithm (ITU-T I.371): `paid` is the date up to
-- which what came is paid for, and it may be so far ahead as a burst is long. One date for all
-- processes, so it does not matter which of them is asked. Repeats are free: they append nothing.
local paid = nil
if rate > 0 then
  local n = 0
  for a = HEAD + 1, #ARGV, STEP do
    local known = ARGV[a + 1] == '1' and call('ZSCORE', P .. 'seen:' .. i, ARGV[a])
    if not (known and tonumber(known) > NOW - seen_ms) then n = n + 1 end
  end
  -- A clock that was set back must not make anybody wait longer than a burst.
  local from = math.max(NOW, math.min(tonumber(c[5] or 0), NOW + burst * 1000 / rate))
  paid = from + n * 1000 / rate
  local early = paid - NOW - burst * 1000 / rate
  if n > 0 and early > 0 then
    call('HINCRBY', P .. 'totals', 'limited', n)
    return { 'limited', math.ceil(early) }
  end
end

-- Which lanes, and what comes to each.
local lanes, order, unwanted, wanted = {}, {}, 0, false
for a = HEAD + 1, #ARGV, STEP do
  wanted = wanted or ARGV[a + 6] ~= '' or ARGV[a + 7] == '1'
  for s, key in string.gmatch(ARGV[a + 6], '(%w+):(%S*)') do
    if not lanes[s] then
      local h = lane(s)
      if not h.sink then return { 'stale' } end
      lanes[s] = { h = h, members = {}, bytes = 0 }
      order[#order + 1] = s
    end
  end
end

-- Memory: above the soft share of the room heavy lanes are refused, above the hard one all are.
-- A call without any wanted event is never refused: it only keeps nothing to be explained.
local short = pressure(bytes, tonumber(ARGV[11]))
if short and wanted then
  local ours, room, full = unpack(short)
  if full or ours > room * tonumber(ARGV[12]) then return { 'full', 'memory' } end
  local excess = ours - room * tonumber(ARGV[11])
  local total = tonumber(call('GET', P .. 'weighing') or 0)
  -- If all lanes together weigh less than the excess, refusing them frees nothing.
  if excess > 0 and total >= excess then
    -- An equal share of the memory, not of what waits. Else lanes of equal weight would take
    -- turns in being below their share, up to the hard share.
    local count = call('ZCARD', P .. 'weight')
    local share = math.max(math.max(total - excess, total / 2) / count, least(room, count))
    for _, s in ipairs(order) do
      local w = tonumber(call('ZSCORE', P .. 'weight', s) or 0)
      if w > 0 and w >= share then return { 'full', 'share' } end
    end
  end
end

if paid then call('HSET', P .. 'config:' .. i, 'paid', string.format('%.17g', paid)) end

-- A given id that was accepted before is a repeat, or a conflict if its fingerprint differs. A date
-- in `seen` that ends in half a millisecond has a fingerprint in `prints`. Older releases write
-- whole dates and no `prints`; an id with such a date counts as a repeat.
local seen, prints = P .. 'seen:' .. i, P .. 'prints:' .. i
local HALF = 0.5
local fresh, dates, marks = {}, {}, {} -- ids of this call: fingerprints, arguments of ZADD, HSET

local function print_of(id)
  if fresh[id] then return fresh[id] end
  local date = call('ZSCORE', seen, id)
  local at = date and tonumber(date)
  if not at or at <= NOW - seen_ms then return nil end
  return at % 1 == HALF and call('HGET', prints, id) or ''
end

local duplicates, conflicts, kept, accepted, added = {}, {}, 0, 0, 0
local numbered, told, first, last = tonumber(c[4] or 0), 0, nil, nil
-- Unwanted events are kept for explanations alone. If memory is short, append keeps none, and the
-- clock forgets all of them.
local age, recorded = tonumber(ARGV[10]), 0
local records = not short and age > 0 and tonumber(ARGV[9]) > 0
for a = HEAD + 1, #ARGV, STEP do
  local id, given, event, meta, data, size, to, ws, mark, why = unpack(ARGV, a, a + 9)
  local known = given == '1' and print_of(id)
  if known then
    local list = (known == '' or known == mark) and duplicates or conflicts
    list[#list + 1] = (a - HEAD - 1) / STEP
  elseif to ~= '' or ws == '1' then
    local entry
    -- Of what websockets get, which one it is: a reader sees by it what it missed.
    local number = ''
    if ws == '1' then
      numbered, told = numbered + 1, told + 1
      number = numbered
    end
    -- About the bytes that it takes in Redis. Each lane has some 30 bytes of `to`.
    local weight = tonumber(size) + ENTRY_BYTES + MEMBER_BYTES * math.ceil(#to / 40)
    added = added + weight
    if #data > inline then
      entry = call('XADD', P .. 'outbox:' .. i, '*', 'id', id, 'event', event, 'to', to,
        'at', NOW, 'size', size, 'meta', meta, 'mode', mode, 'ws', number, 'w', weight)
      call('SET', P .. 'body:' .. i .. ':' .. entry, data)
    else
      entry = call('XADD', P .. 'outbox:' .. i, '*', 'id', id, 'event', event, 'to', to,
        'at', NOW, 'size', size, 'meta', meta, 'mode', mode, 'ws', number, 'w', weight,
        'data', data)
    end
    if kept == 0 then call('ZADD', P .. 'aging', 'NX', NOW + age, i) end
    kept = kept + 1
    if ws == '1' then
      first, last = first or entry, entry
    end
    for s, key in string.gmatch(to, '(%w+):(%S*)') do
      local l = lanes[s]
      l.members[#l.members + 1] = 0
      l.members[#l.members + 1] = padded(entry) .. ':' .. size .. ':' .. key
      l.bytes = l.bytes + tonumber(size)
    end
    if given == '1' then
      fresh[id] = mark
      dates[#dates + 1], dates[#dates + 2] = NOW + HALF, id
      marks[#marks + 1], marks[#marks + 2] = id, mark
    end
    accepted = accepted + 1
  else
    unwanted = unwanted + 1
    if records then
      if recorded == 0 then call('ZADD', P .. 'aging', 'NX', NOW + age, i) end
      recorded = recorded + 1
      added = added + keep_unwanted(i, id, event, why)
    end
  end
end
if accepted > 0 then call('HINCRBY', P .. 'totals', 'accepted', accepted) end
if unwanted > 0 then call('HINCRBY', P .. 'totals', 'unwanted', unwanted) end
if #duplicates > 0 then call('HINCRBY', P .. 'totals', 'duplicates', #duplicates) end
if #conflicts > 0 then call('HINCRBY', P .. 'totals', 'conflicts', #conflicts) end

local bells, rung = {}, {}
for _, s in ipairs(order) do
  local l = lanes[s]
  if #l.members > 0 then
    for m = 1, #l.members, 1000 do
      call('ZADD', P .. 'waiting:' .. s, unpack(l.members, m, math.min(m + 999, #l.members)))
    end
    book(s, l.h.sink, mode, #l.members / 2)
    local weight = weigh(s, l.bytes) or 0
    if call('ZCARD', P .. 'waiting:' .. s) > tonumber(ARGV[13]) or weight > tonumber(ARGV[14]) then
      call('SADD', P .. 'over', s)
    end
    -- New ones stand behind all that was never tried: the front is one of them, or as it was.
    local first = front(s)
    local d = redate(s, l.h, first[1] ~= l.members[2] and first or nil)
    if l.h.hungry and l.h.token then
      -- The holder ran out of ids while deliveries are under way: tell it.
      call('HDEL', P .. 'lane:' .. s, 'hungry')
      call('PUBLISH', P .. 'wake:' .. l.h.sink, s)
    elseif d and d <= NOW and not rung[l.h.sink] then
      rung[l.h.sink] = true
      local first = call('ZRANGE', P .. 'due:' .. l.h.sink, 0, 0, 'WITHSCORES')
      local awake = call('EXISTS', P .. 'awake:' .. l.h.sink) == 1
      if awake then call('PUBLISH', P .. 'wake:' .. l.h.sink, '') end
      if not awake or (first[2] and tonumber(first[2]) < NOW - 1000) then
        if call('SET', P .. 'rung:' .. l.h.sink, '1', 'PX', 1000, 'NX') then
          bells[#bells + 1] = l.h.sink
        end
      end
    end
  end
end

if told > 0 then
  call('HSET', P .. 'config:' .. i, 'ws', numbered)
  call('XADD', P .. 'feed', 'MAXLEN', '~', ARGV[16], '*', 'n', call('INCR', P .. 'fed'), 'i', i,
    'name', ARGV[15], 'first', first, 'last', last, 'count', told, 'size', bytes)
end
if kept + recorded > 0 then
  local retain, over = tonumber(ARGV[9]), false
  if kept > 0 then over = call('HINCRBY', P .. 'config:' .. i, 'kept', kept) > retain end
  if recorded > 0 then
    local key = P .. 'unwanted:' .. i
    call('PEXPIRE', key, age + UNWANTED_MS)
    over = over or call('XLEN', key) > math.min(retain, UNWANTED) + UNWANTED_MORE
  end
  local ages = tonumber(call('ZSCORE', P .. 'aging', i) or NOW + 1)
  if over or ages <= NOW then
    local n = recorded > 0 and UNWANTED_MORE or 0
    trim(i, retain, age, math.min(math.max(kept, recorded) + n + 8, 128), added)
  else
    store(i, added)
  end
end
if #marks > 0 and seen_ms > 0 then
  for n = 1, #marks, 1000 do
    local last = math.min(n + 999, #marks)
    call('ZADD', seen, unpack(dates, n, last))
    call('HSET', prints, unpack(marks, n, last))
  end
  call('PEXPIRE', seen, seen_ms)
  call('PEXPIRE', prints, seen_ms)
  -- Forget the oldest ids: those beyond the count, and those whose time is over. Forget more than
  -- came, so that batches of any size make them fewer.
  local came = #marks / 2
  local count = call('ZCARD', seen)
  local past = math.min(math.max(count - seen_ids, 0), came + 1000)
  local first = call('ZRANGE', seen, past, past + came + 1, 'WITHSCORES')
  local old = 0
  while first[old * 2 + 2] and tonumber(first[old * 2 + 2]) <= NOW - seen_ms do old = old + 1 end
  past = past + old
  for n = past, 1, -1000 do
    local gone, ids = call('ZPOPMIN', seen, math.min(n, 1000)), {}
    for g = 1, #gone, 2 do ids[#ids + 1] = gone[g] end
    call('HDEL', prints, unpack(ids))
  end
  -- Older releases forget an id without its fingerprint. Draw some, and drop those without an id.
  if call('HLEN', prints) > count - past then
    for _, id in ipairs(call('HRANDFIELD', prints, came + 16)) do
      if not call('ZSCORE', seen, id) then call('HDEL', prints, id) end
    end
  end
end
return { 'ok', duplicates, bells, conflicts }
