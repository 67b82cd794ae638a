-- configure: bring what Redis must know of an instance in line with its row.
--
--   config:<i>  hash  revision, epoch, lanes, tombstone     lane:<s>  hash  flags
--   waiting:<s>, dying:<s>, tries:<s>, early:<s>  set aside when their lane is destroyed
--   gone:<s>:waiting|dying  keys, sweep  set                due, alone, oldest, weight, graves
--   failing  zset, buried  hash  - a destroyed lane        wake:<sink>  channel
--   feed, fed   stream, string  + one line where an instance that was known changes
--   seen:<i>, prints:<i>, unwanted:<i>  zset, hash, stream  - with the instance
--
-- Atomic because a lane is there for append and take, or not, and because the count that a
-- delete answers is the count of what it took away. The whole state, applied again at the
-- same revision, changes nothing.
--
-- ARGV: i, revision, epoch, deleted (1|0), tombstone ms, lanes as JSON
--       [[s, sink, enabled 1|0, stopped 1|0, wait 1|0, version], ...], lines of the feed
-- Answers {'newer'} or {'ok', s, discarded, ...}.

unblock()
local i, revision, epoch, deleted = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local config = P .. 'config:' .. i
local c = call('HMGET', config, 'revision', 'epoch', 'lanes', 'gone')
if c[1] and c[2] == epoch and tonumber(c[1]) > tonumber(revision) then return { 'newer' } end
local lanes = cjson.decode(ARGV[6])
local keep = {}
for _, l in ipairs(lanes) do keep[l[1]] = true end
local out = { 'ok' }

-- Sockets may have joined an instance that never had an event: each change is told, a repeat
-- of the same revision is not, and neither is what a Redis that was emptied learns anew.
if c[1] and not c[4] and (c[1] ~= revision or c[2] ~= epoch) then
  call('XADD', P .. 'feed', 'MAXLEN', '~', ARGV[7], '*', 'n', call('INCR', P .. 'fed'), 'i', i)
end

local function set_aside(s, sink)
  local n = call('ZCARD', P .. 'waiting:' .. s) + call('HLEN', P .. 'dying:' .. s)
  for _, part in ipairs({ 'waiting', 'dying' }) do
    local from, to = P .. part .. ':' .. s, 'gone:' .. s .. ':' .. part
    if call('EXISTS', from) == 1 then
      call('RENAME', from, P .. to)
      call('SADD', P .. 'sweep', i .. ' ' .. to)
    end
  end
  local weight = tonumber(call('ZSCORE', P .. 'weight', s) or 0)
  if weight > 0 then weigh(s, -weight) end
  book(s, sink, 'discarded', n)
  call('UNLINK', P .. 'tries:' .. s, P .. 'early:' .. s, P .. 'lane:' .. s)
  for _, z in ipairs({ 'due:', 'alone:', 'oldest:' }) do call('ZREM', P .. z .. sink, s) end
  call('SREM', P .. 'graves', s)
  call('ZREM', P .. 'failing', s)
  call('HDEL', P .. 'buried', s)
  out[#out + 1] = s
  out[#out + 1] = n
end

-- A lane without a row is destroyed when its own database says so. Another database (an older
-- one that was restored) may just not know it: then it is kept, taken off `due`, and the audit
-- reports it.
for _, l in ipairs(cjson.decode(c[3] or '[]')) do
  if not keep[l[1]] then
    if c[2] == epoch or deleted then
      set_aside(l[1], l[2])
    else
      call('HSET', P .. 'lane:' .. l[1], 'on', 0, 'orphan', 1)
      redate(l[1], lane(l[1]))
    end
  end
end
if deleted then
  -- The tombstone keeps a slow process with an old row from making the keys anew.
  call('HDEL', config, 'edge', 'kept', 'ws')
  call('HSET', config, 'revision', revision, 'epoch', epoch, 'lanes', '[]', 'gone', NOW)
  call('PEXPIRE', config, ARGV[5])
  call('SADD', P .. 'sweep', i .. ' outbox')
  call('ZREM', P .. 'aging', i)
  call('UNLINK', P .. 'seen:' .. i, P .. 'prints:' .. i, P .. 'unwanted:' .. i)
  return out
end
call('HDEL', config, 'gone')
call('PERSIST', config)
call('HSET', config, 'revision', revision, 'epoch', epoch, 'lanes', ARGV[6])
for _, l in ipairs(lanes) do
  local s, sink = l[1], l[2]
  local key = P .. 'lane:' .. s
  local was = lane(s, 'version', 'pauses', 'early', 'recalled')
  call('HDEL', key, 'orphan')
  call('HSET', key, 'i', i, 'sink', sink, 'on', l[3], 'stop', l[4], 'wait', l[5], 'version', l[6])
  if was.version and tonumber(was.version) ~= tonumber(l[6]) then
    -- The subscription was changed, so a failed delivery may work now. The pause ends, and retries
    -- need not wait for their dates. If the lane fails again, its next pause is as long as this one.
    local pauses = tonumber(was.pauses or 0) - (tonumber(was['until'] or 0) > 0 and 1 or 0)
    call('HDEL', key, 'until', 'failures', 'pauses', 'last_entry', 'fails', 'since')
    if pauses > 0 then call('HSET', key, 'pauses', pauses) end
    if call('HEXISTS', key, 'told') == 1 then call('HSET', key, 'told', 'changed') end
    was.recall = NOW
    recall(s, was, 'change')
  end
  redate(s, lane(s))
  local changed = was.version ~= tostring(l[6]) or was.on ~= tostring(l[3])
    or was.stop ~= tostring(l[4])
  if was.token and changed then
    -- A drain that has some of it in hand asks again before it starts any.
    call('PUBLISH', P .. 'wake:' .. sink, s .. ' anew')
  end
end
return out
