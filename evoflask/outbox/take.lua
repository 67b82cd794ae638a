-- take: hand due lanes to a drain, longest due first, each with a hold.
--
--   due:<sink> | alone:<sink>   zset  dates            lane:<s>      hash  hold, losses
--   waiting:<s>  zset  read: a window of ids           tries:<s>, early:<s>  hash  read
--   config:<i>   hash  read: revision                  dying:<s>, graves   a crasher
--
-- Atomic because two drains must never hold one lane, and because a hold that ended without
-- being given up is counted exactly once.
--
-- ARGV: sink, token, hold ms, lanes at most, ids a lane, alone (1|0)
-- Answers {now ms, lane, lane, ...}; a lane is {s, token, i, revision, epoch, probe, proven,
-- failures, until, pauses, last entry, ids, early, the end of the pause that a probe by hand
-- interrupted, or 0}.

unblock()
local sink, token, hold = ARGV[1], ARGV[2], tonumber(ARGV[3])
local alone = ARGV[6] == '1'
local due = P .. (alone and 'alone:' or 'due:') .. sink
local CRASHES = 7 -- losses with the same mark, after which the marked entry is dead
local out = { NOW }

-- Count a hold that ended without being given up, and blame the marked entry at last.
local function count_loss(s, h)
  local key = P .. 'lane:' .. s
  h.lost = call('HINCRBY', key, 'lost', 1)
  -- Only a hold in which it was marked says something of the entry: a hold whose answer never
  -- arrived was lost too, and nothing was started in it.
  local mark, marked = unpack(call('HMGET', key, 'mark', 'marked'))
  call('HDEL', key, 'token', 'end', 'hungry', 'marked')
  h.token, h.hungry = nil, nil
  if not mark or not marked then return end
  if call('HINCRBY', key, 'marks', 1) >= CRASHES then
    call('HDEL', key, 'mark', 'marks')
    if call('ZREM', P .. 'waiting:' .. s, mark) == 1 then
      local tries = tonumber(call('HGET', P .. 'tries:' .. s, mark) or 0)
      call('HDEL', P .. 'tries:' .. s, mark)
      weigh(s, -size_of(mark))
      die(s, mark, tries, '{"reason":"crashed","code":"","detail":"the worker died each time it sent this event"}')
    end
  end
end

-- `same`: see redate.
local function hand(s, h, n, same)
  local key = P .. 'lane:' .. s
  local paused = tonumber(h['until'] or 0)
  local failures = tonumber(h.failures or 0)
  local proven = h.okat and failures == 0
  local ids, hungry
  local early, broke = {}, 0
  if paused > 0 then
    -- A probe: the oldest event not yet tried (with `wait`, the earliest retry), else the
    -- earliest retry, whatever its date.
    local all = call('ZRANGE', P .. 'waiting:' .. s, 0, 0)
    if h.wait == '1' then
      local retry = call('ZRANGEBYSCORE', P .. 'waiting:' .. s, '(0', '+inf', 'LIMIT', 0, 1)
      if retry[1] then all = retry end
    end
    ids = {}
    if all[1] then
      local tries = tonumber(call('HGET', P .. 'tries:' .. s, all[1]) or 0)
      local mark = h.early and call('HGET', P .. 'early:' .. s, all[1])
      local own, cause = read_mark(mark, tries)
      local was, till = string.match(h.probed or '', '^(%d+) (%d+)$')
      if was and tonumber(was) == paused then broke, own, cause = tonumber(till), NOW + 1, 'probe' end
      ids = { all[1], tries }
      if own and own > NOW then early = { all[1], cause } end
    end
  else
    local asked = alone and 1 or proven and n or math.min(n, 2)
    ids, early = window(s, h, asked, '', 0, 0)
    hungry = not alone and #ids < asked * 2
  end
  if not ids[1] then
    redate(s, h, same)
    return
  end
  local mine = token .. ':' .. #out
  h.token, h['end'] = mine, NOW + hold
  if hungry then
    call('HSET', key, 'token', mine, 'end', h['end'], 'hungry', 1)
  else
    call('HSET', key, 'token', mine, 'end', h['end'])
    if h.hungry then call('HDEL', key, 'hungry') end
  end
  redate(s, h, same)
  local c = call('HMGET', P .. 'config:' .. h.i, 'revision', 'epoch')
  out[#out + 1] = { s, mine, h.i, c[1] or '', c[2] or '', paused > 0 and 1 or 0, proven and 1 or 0,
    failures, paused, tonumber(h.pauses or 0), h.last_entry or '', ids, early, broke }
end

for _, s in ipairs(call('ZRANGEBYSCORE', due, '-inf', NOW, 'LIMIT', 0, ARGV[4])) do
  local h = lane(s, 'okat', 'failures', 'pauses', 'last_entry', 'early', 'probed')
  if not h.sink then
    call('ZREM', due, s)
  elseif h.token and tonumber(h['end']) > NOW then
    redate(s, h)
  else
    local lost = h.token
    if lost then count_loss(s, h) end
    local first = front(s)
    local d = date(s, h, first)
    if quarantined(h) ~= alone then
      call('ZREM', due, s)
      redate(s, h)
    elseif not d or d > NOW then
      redate(s, h)
    else
      hand(s, h, tonumber(ARGV[5]), not lost and first or nil)
    end
  end
end
return out
