"""What Redis does for topics with a history, each in one step that no other client comes between.

A topic has a stream of what is kept of it and a hash about it. The number of a publication is the
last part of its id in the stream, and numbers have no gap: so who listens sees that something
is missing, and what was trimmed from the stream is known to be. The first part is the time in
milliseconds, by which old ones are trimmed. The hash has

    epoch   a word that this stream has been given: another one means that Redis lost the data
    number  of the last publication
    ms      its time
    p:NAME  of each machine that publishes: the last number that it gave, to know a repeated one
"""

from __future__ import annotations

from typing import Final

_STATE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HMGET', KEYS[2], 'epoch', 'number', 'ms')
local epoch, number, ms = state[1], tonumber(state[2]), tonumber(state[3])
local age, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
if not epoch then
    epoch, number, ms = ARGV[3], 0, 0
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[2], 'epoch', epoch, 'number', 0, 'ms', 0)
end
local oldest = string.format('%.0f', math.max(now - age, 0))
"""

#: KEYS: stream, hash. ARGV: age in ms, seconds until the hash may be forgotten, a new epoch; then
#: how many to keep, channel, the command that publishes there, this machine, and pairs of number
#: and body. Answers the ids, as words: epoch, ms, number.
PUBLISH: Final = (
    _STATE
    + """
local keep, channel, command, machine = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local field = 'p:' .. machine
local last = tonumber(redis.call('HGET', KEYS[2], field) or 0)
local recent = nil
local ids = {}
for i = 8, #ARGV, 2 do
    local given = tonumber(ARGV[i])
    if given > last then
        number = number + 1
        ms = math.max(ms, now)
        last = given
        local place = string.format('%.0f-%.0f', ms, number)
        redis.call('XADD', KEYS[1], 'MAXLEN', '~', keep, place,
            'b', ARGV[i + 1], 'm', machine .. ' ' .. ARGV[i])
        local id = string.format('%s %.0f %.0f', epoch, ms, number)
        redis.call(command, channel, 'h' .. id .. '\\n' .. ARGV[i + 1])
        ids[#ids + 1] = id
    else
        if not recent then
            recent = {}
            for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 2000)) do
                recent[entry[2][4]] = entry[1]
            end
        end
        local place = recent[machine .. ' ' .. ARGV[i]]
            or string.format('%.0f-%.0f', ms, number)
        ids[#ids + 1] = epoch .. ' ' .. string.gsub(place, '-', ' ')
    end
end
redis.call('HSET', KEYS[2], 'number', string.format('%.0f', number),
    'ms', string.format('%.0f', ms), field, string.format('%.0f', last))
redis.call('XTRIM', KEYS[1], 'MINID', oldest)
redis.call('PEXPIRE', KEYS[1], math.max(age, 1))
redis.call('EXPIRE', KEYS[2], ttl)
return ids
"""
)

#: KEYS and the first three of ARGV as above; then epoch, ms and number of the last that is known
#: (no epoch: nothing is), and how many to answer. Answers whether nothing is missing between, the
#: id behind the answer, whether there is more behind it, and pairs of place in the stream and body.
MISSED: Final = (
    _STATE
    + """
redis.call('XTRIM', KEYS[1], 'MINID', oldest)
redis.call('EXPIRE', KEYS[2], ttl)
local id = string.format('%s %.0f %.0f', epoch, ms, number)
local since, most = tonumber(ARGV[6]), tonumber(ARGV[7])
if ARGV[4] == '' or (ARGV[4] == epoch and since == number) then return {1, id, 0, {}} end
if ARGV[4] ~= epoch or since > number then return {0, id, 0, {}} end
local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[5] .. '-' .. ARGV[6], '+', 'COUNT', most)
local first = entries[1] and tonumber(string.match(entries[1][1], '%-(%d+)'))
if first ~= since + 1 then return {0, id, 0, {}} end
local found = {}
for _, entry in ipairs(entries) do
    found[#found + 1] = entry[1]
    found[#found + 1] = entry[2][2]
end
if #entries < most then return {1, id, 0, found} end
return {1, epoch .. ' ' .. string.gsub(entries[#entries][1], '-', ' '), 1, found}
"""
)
