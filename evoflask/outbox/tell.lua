-- tell: note what the operator was told of a lane.
--
--   lane:<s>  hash  told, well      failing  zset  - a lane that works      totals
--
-- Atomic because a lane that was destroyed meanwhile must not come back as a hash of one field,
-- and because one that fails again stays watched.
--
-- ARGV: s, what: failing, paused, disabling (about to be), disabled, '' (it works again)
-- Answers 1, or 0 where there is no such lane.

unblock()
local s, what = ARGV[1], ARGV[2]
local key = P .. 'lane:' .. s
if call('HEXISTS', key, 'sink') == 0 then return 0 end
if what ~= '' then
  if what == 'disabled' then call('HINCRBY', P .. 'totals', 'disabled', 1) end
  call('HSET', key, 'told', what)
  return 1
end
call('HDEL', key, 'told', 'well')
if call('HEXISTS', key, 'fails') == 0 then call('ZREM', P .. 'failing', s) end
return 1
