{{/* What the chart's own Redis is told. Web and model pods refuse a Redis that evicts. */}}
{{- define "imageserve.redisConf" -}}
bind * -::*
port 6379
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory {{ include "imageserve.bytes" .Values.redis.maxmemory }}
maxmemory-policy noeviction
{{- range .Values.redis.extraConfig }}
{{ . }}
{{- end }}
{{- end -}}

{{/* Restarts pods whose password is another one. With a Secret of the user's, he restarts them. */}}
{{- define "imageserve.redisSecretChecksum" -}}
{{- if .Values.redis.auth.existingSecret -}}
{{- printf "%s/%s" .Values.redis.auth.existingSecret .Values.redis.auth.secretKey | sha256sum -}}
{{- else -}}
{{- printf "%s/%s" (include "imageserve.redisSecretName" .) (include "imageserve.redisPassword" .) | sha256sum -}}
{{- end -}}
{{- end -}}
