{{/* Bytes for data: half of what the node keeps for the pod. A pod with a limit alone requests that. 0: neither is given. */}}
{{- define "imageserve.redisMaxmemory" -}}
{{- $redis := .Values.redis -}}
{{- if $redis.maxmemory -}}
{{- include "imageserve.bytes" $redis.maxmemory -}}
{{- else -}}
{{- $limit := dig "limits" "memory" 0 $redis.resources -}}
{{- div (include "imageserve.bytes" (default $limit (dig "requests" "memory" 0 $redis.resources)) | int64) 2 -}}
{{- end -}}
{{- end -}}

{{/* Configuration of the chart's own Redis. Web and model pods refuse a Redis that evicts keys. */}}
{{- define "imageserve.redisConf" -}}
bind * -::*
port 6379
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory {{ include "imageserve.redisMaxmemory" . }}
maxmemory-policy noeviction
{{- range .Values.redis.extraConfig }}
{{ . }}
{{- end }}
{{- end -}}

{{/* A changed password restarts the pods. With the user's own Secret, the user restarts them. */}}
{{- define "imageserve.redisSecretChecksum" -}}
{{- if .Values.redis.auth.existingSecret -}}
{{- printf "%s/%s" .Values.redis.auth.existingSecret .Values.redis.auth.secretKey | sha256sum -}}
{{- else -}}
{{- printf "%s/%s" (include "imageserve.redisSecretName" .) (include "imageserve.redisPassword" .) | sha256sum -}}
{{- end -}}
{{- end -}}
