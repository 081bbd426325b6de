-- Part of other scripts: ends a job without a worker. Its result is stored, if there is none yet, and published, in the
-- same step as what the script does with the job: whoever runs it may die right after.
-- The names of these keys are not in KEYS, because the ids are only known here; they are in the slot of the queue.
local function settle(job, results, pixels, code, message)
  if type(job) ~= 'table' or type(job.id) ~= 'string' then return end
  local ttl = job.result_ttl_ms
  if type(ttl) ~= 'number' or not (ttl >= 1 and ttl < 2 ^ 53) then ttl = 60000 end
  local body = cjson.encode({v = 1, id = job.id, model = type(job.model) == 'string' and job.model or '',
    queue_ms = 0, model_ms = 0, batch = 0, error = {code = code, message = message}})
  redis.call('UNLINK', pixels .. job.id)
  if redis.call('SET', results .. job.id, body, 'NX', 'PX', string.format('%.0f', math.floor(ttl)))
    and type(job.reply) == 'string' and job.reply ~= '' then redis.call('PUBLISH', job.reply, body) end
end
