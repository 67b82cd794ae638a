-- skip: give up what a lane tries next, its head, whatever the lane's flags.
--
--   waiting:<s>  zset  - the head     tries:<s>  hash     dying:<s>, graves     weight, weighing
--   outbox:<i>  stream  read: the event's id     due, alone, oldest  dates     wake:<sink>  channel
--
-- Atomic because a delivery is on the lane, dying or settled, and exactly one of them; and
-- because what is skipped is what the operator saw.
--
-- ARGV: s, event id that the head must have ('' any), reason as JSON
-- Answers {'unknown'}, {'empty'}, {'other', event id} or {'ok', event id, event, tries, member}.

unblock()
local s = ARGV[1]
local h = lane(s)
if not h.sink then return { 'unknown' } end
local member = head(s, h)
if not member then return { 'empty' } end
local id = entry_of(member)
local row = call('XRANGE', P .. 'outbox:' .. h.i, id, id)[1]
local event_id = row and field(row[2], 'id') or ''
if ARGV[2] ~= '' and ARGV[2] ~= event_id then return { 'other', event_id } end
local tries = tonumber(call('HGET', P .. 'tries:' .. s, member) or 0)
call('ZREM', P .. 'waiting:' .. s, member)
call('HDEL', P .. 'tries:' .. s, member)
weigh(s, -size_of(member))
die(s, member, tries, ARGV[3])
redate(s, h)
-- A drain that has it in hand and did not start it lets go of it.
if h.token then call('PUBLISH', P .. 'wake:' .. h.sink, s .. ' anew') end
return { 'ok', event_id, row and field(row[2], 'event') or '', tries, member }
