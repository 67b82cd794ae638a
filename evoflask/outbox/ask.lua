-- ask: for a test of a subscription, of whoever drains its sink.
--
--   trial:<id>  hash  + the request, expiring       trials:<sink>  zset  + it is open
--   asked:<sink>  list  + it waits to be taken      wake:<sink>   channel
--
-- Atomic so that no more of them are open than may be. Not for a full Redis: its first write is
-- one that is refused then.
--
-- ARGV: i, s, sink, id, event, request, open of an instance, open of a sink, open ms, kept ms
-- Answers `ok`, or of which there are too many: `instance`, `sink`.

local i, sink, id = ARGV[1], ARGV[3], ARGV[4]
local most = tonumber(ARGV[8])
local open = call('ZRANGEBYSCORE', P .. 'trials:' .. sink, NOW, '+inf', 'LIMIT', 0, most)
if #open >= most then return 'sink' end
local own = 0
for _, each in ipairs(open) do
  if string.match(each, '^%S+') == i then own = own + 1 end
end
if own >= tonumber(ARGV[7]) then return 'instance' end

call('HSET', P .. 'trial:' .. id, 'i', i, 's', ARGV[2], 'event', ARGV[5], 'at', NOW,
  'request', ARGV[6])
call('PEXPIRE', P .. 'trial:' .. id, ARGV[10])
call('ZREMRANGEBYSCORE', P .. 'trials:' .. sink, '-inf', '(' .. NOW)
call('ZADD', P .. 'trials:' .. sink, NOW + tonumber(ARGV[9]), i .. ' ' .. id)
call('RPUSH', P .. 'asked:' .. sink, id)
call('LTRIM', P .. 'asked:' .. sink, -most, -1) -- what nobody takes for days is forgotten
call('PUBLISH', P .. 'wake:' .. sink, '?')
return 'ok'
