-- renew: keep holds.
--
--   lane:<s>  hash  hold          due:<sink> | alone:<sink>  zset  dates
--
-- Atomic because a hold that ended may belong to somebody else by now.
--
-- ARGV: hold ms, then s, token ... Answers the lanes that are no longer held by that token.

unblock()
local lost = {}
for a = 2, #ARGV, 2 do
  local h = lane(ARGV[a])
  if h.sink and h.token == ARGV[a + 1] then
    h['end'] = NOW + tonumber(ARGV[1])
    call('HSET', P .. 'lane:' .. ARGV[a], 'end', h['end'])
    redate(ARGV[a], h, front(ARGV[a]))
  else
    lost[#lost + 1] = ARGV[a]
  end
end
return lost
