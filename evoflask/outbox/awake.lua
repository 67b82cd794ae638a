-- awake: tell that sinks are drained here, or take it back.
--
--   awake:<sink>  string  set, expires; or deleted
--
-- A script only because a full Redis would refuse a plain SET.
--
-- ARGV: ms (0: take it back), sink ...

unblock()
for a = 2, #ARGV do
  if ARGV[1] == '0' then
    call('DEL', P .. 'awake:' .. ARGV[a])
  else
    call('SET', P .. 'awake:' .. ARGV[a], '1', 'PX', ARGV[1])
  end
end
return #ARGV - 1
