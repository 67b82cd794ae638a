-- probe: try one event of the lane now, despite its pause or the date of its next retry.
--
--   lane:<s>  hash  until, probed    waiting:<s>  zset  the earliest retry's date
--   tries:<s>  hash  read            early:<s>  hash  the date that this retry had
--   due:<sink> | alone:<sink>, oldest:<sink>  dates       wake:<sink>  channel
--
-- Atomic because a pause that ended meanwhile, or a retry that was settled, must not come back.
-- A failure of the try costs nothing. The pause keeps its end, which `probed` holds with the date of
-- the probe. The retry gets its date back from `early`.
--
-- ARGV: s. Answers unknown, off, stopped, empty or ok.

unblock()
local s = ARGV[1]
local h = lane(s, 'early', 'probed')
if not h.sink then return 'unknown' end
if h.on ~= '1' then return 'off' end
if h.stop == '1' then return 'stopped' end
local waiting, key = P .. 'waiting:' .. s, P .. 'lane:' .. s
if call('ZCARD', waiting) == 0 then return 'empty' end
local pause = tonumber(h['until'] or 0)
if pause > NOW then
  h['until'] = NOW
  call('HSET', key, 'until', NOW, 'probed', string.format('%.0f %.0f', NOW, pause))
elseif tonumber(string.match(h.probed or '', '^%d+') or -1) ~= pause then
  local retry = call('ZRANGEBYSCORE', waiting, '(' .. NOW, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if retry[1] then
    local tries = call('HGET', P .. 'tries:' .. s, retry[1])
    local own = read_mark(h.early and call('HGET', P .. 'early:' .. s, retry[1]), tries)
    mark_early(s, retry[1], tries, own or tonumber(retry[2]), 'probe')
    call('HSET', key, 'early', 1)
    call('ZADD', waiting, 'XX', NOW, retry[1])
  end
end
redate(s, h)
call('PUBLISH', P .. 'wake:' .. h.sink, h.token and s or '')
return 'ok'
