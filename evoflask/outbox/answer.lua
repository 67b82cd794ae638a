-- answer: what came of a test of a subscription.
--
--   trials:<sink>  zset  - it is open no more       trial:<id>  hash  + its story
--
-- Atomic so that a story never makes a test that was forgotten; works on a full Redis, or who
-- asked would wait in vain.
--
-- ARGV: sink, id, story, kept ms. Answers 1, or 0: nobody remembers it.

unblock()
local key = P .. 'trial:' .. ARGV[2]
local i = call('HGET', key, 'i')
if not i then return 0 end
call('ZREM', P .. 'trials:' .. ARGV[1], i .. ' ' .. ARGV[2])
call('HSET', key, 'story', ARGV[3])
call('HDEL', key, 'request')
call('PEXPIRE', key, ARGV[4])
return 1
