{{/* Environment variables of the containers. The program reads its settings from them. */}}

{{/* Address and credentials of Redis. */}}
{{- define "imageserve.redisClientEnv" -}}
{{- $external := .Values.redis.external -}}
- name: REDIS_URL
  value: {{ include "imageserve.redisUrl" . | quote }}
{{- if and (not .Values.redis.enabled) $external.username }}
- name: REDIS_USERNAME
  value: {{ $external.username | quote }}
{{- end }}
{{- with include "imageserve.redisSecretName" . }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: {{ include "imageserve.redisSecretKey" $ | quote }}
{{- end }}
{{- if not .Values.redis.enabled }}
{{- if and $external.tls.enabled $external.tls.caSecret }}
- name: REDIS_CA_FILE
  value: /etc/imageserve/redis-ca/ca.crt
{{- end }}
{{- if and $external.sentinel.enabled $external.sentinel.existingSecret }}
- name: REDIS_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $external.sentinel.existingSecret | quote }}
      key: {{ $external.sentinel.secretKey | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "imageserve.logEnv" -}}
- name: LOG_LEVEL
  value: {{ .Values.log.level }}
- name: LOG_FORMAT
  value: {{ .Values.log.format }}
{{- end -}}

{{/* Shared by web and model pods: Redis, models, traces, logging. */}}
{{- define "imageserve.sharedEnv" -}}
{{ include "imageserve.redisClientEnv" . }}
- name: MODELS_FILE
  value: /etc/imageserve/models.yaml
- name: QUEUE_BYTES_LIMIT
  value: {{ include "imageserve.size" .Values.limits.queueBytesLimit | quote }}
{{- with .Values.tracing.endpoint }}
- name: TRACES_ENDPOINT
  value: {{ . | quote }}
- name: TRACES_SHARE
  value: {{ include "imageserve.number" $.Values.tracing.share | quote }}
{{- end }}
{{ include "imageserve.logEnv" . }}
{{- end -}}

{{- define "imageserve.webEnv" -}}
{{- $limits := .Values.limits -}}
{{- $web := .Values.web -}}
{{ include "imageserve.sharedEnv" . }}
- name: QUEUE_LIMIT
  value: {{ include "imageserve.number" $limits.queueLimit | quote }}
- name: REQUEST_TIMEOUT_S
  value: {{ include "imageserve.number" $limits.requestTimeoutSeconds | quote }}
- name: UPLOAD_TIMEOUT_S
  value: {{ include "imageserve.number" $limits.uploadTimeoutSeconds | quote }}
- name: OUTAGE_PATIENCE_S
  value: {{ include "imageserve.number" $limits.outagePatienceSeconds | quote }}
- name: RESULT_TTL_S
  value: {{ include "imageserve.number" $limits.resultTtlSeconds | quote }}
- name: MAX_IMAGE_BYTES
  value: {{ include "imageserve.size" $limits.maxImageBytes | quote }}
- name: MAX_BODY_BYTES
  value: {{ include "imageserve.size" $limits.maxBodyBytes | quote }}
- name: MAX_IMAGE_PIXELS
  value: {{ include "imageserve.number" $limits.maxImagePixels | quote }}
- name: MAX_IMAGE_SIDE
  value: {{ include "imageserve.number" $limits.maxImageSide | quote }}
- name: DECODE_S
  value: {{ include "imageserve.number" $limits.decodeSeconds | quote }}
- name: FAST_JPEG
  value: {{ ternary "0" "1" (eq (toString $web.fastJpeg) "false") | quote }}
- name: FAST_RESIZE
  value: {{ ternary "0" "1" (eq (toString $web.fastResize) "false") | quote }}
- name: MAX_IMAGES
  value: {{ include "imageserve.number" $limits.maxImages | quote }}
- name: IMAGE_FORMATS
  value: {{ join "," $limits.imageFormats | quote }}
- name: WEB_PORT
  value: "8000"
- name: WEB_PROBE_PORT
  value: "8001"
- name: WEB_PROCESSES
  value: {{ include "imageserve.number" $web.processes | quote }}
- name: WEB_SLOTS
  value: {{ include "imageserve.number" $web.slots | quote }}
- name: WEB_MEMORY_BYTES
  value: {{ include "imageserve.size" $web.memoryBytes | quote }}
- name: DECODE_MEMORY_BYTES
  value: {{ include "imageserve.size" $web.decodeMemoryBytes | quote }}
- name: KEEPALIVE_S
  value: {{ include "imageserve.number" $web.keepaliveSeconds | quote }}
- name: DRAIN_S
  value: {{ include "imageserve.number" $web.drainSeconds | quote }}
- name: RUN_DIR
  value: /run/imageserve
{{- if $web.page.enabled }}
- name: WEB_PAGE
  value: "1"
{{- end }}
{{- with $web.corsOrigins }}
- name: CORS_ORIGINS
  value: {{ join "," . | quote }}
{{- end }}
{{- if .Values.apiKeys.enabled }}
- name: API_KEYS_FILE
  value: /etc/imageserve/keys/keys
{{- end }}
{{- end -}}

{{/* Of the container that serves gRPC: what it shares with the web server, and its own ports. */}}
{{- define "imageserve.grpcEnv" -}}
{{ include "imageserve.webEnv" . }}
- name: GRPC_PORT
  value: "8002"
- name: METRICS_PORT
  value: "9100"
{{- end -}}

{{/* (list . $model) */}}
{{- define "imageserve.modelEnv" -}}
{{- $model := index . 1 -}}
{{ include "imageserve.sharedEnv" (index . 0) }}
- name: MODEL
  value: {{ $model.name | quote }}
- name: BATCH_SIZE
  value: {{ include "imageserve.number" $model.batchSize | quote }}
- name: BATCH_DELAY_MS
  value: {{ include "imageserve.number" $model.batchDelayMs | quote }}
- name: LEASE_S
  value: {{ include "imageserve.number" $model.leaseSeconds | quote }}
- name: MAX_ATTEMPTS
  value: {{ include "imageserve.number" $model.maxAttempts | quote }}
- name: SHUTDOWN_S
  value: {{ include "imageserve.number" $model.shutdownSeconds | quote }}
{{- with $model.runtime }}
- name: MODEL_RUNTIME
  value: {{ . }}
{{- end }}
- name: KERAS_BACKEND
  value: {{ $model.backend }}
- name: PRECISION
  value: {{ $model.precision }}
- name: XLA
  value: {{ ternary "1" "0" $model.xla | quote }}
{{- with $model.threads }}
- name: MODEL_THREADS
  value: {{ include "imageserve.number" . | quote }}
{{- end }}
{{- with $model.versions.dir }}
- name: MODELS_DIR
  value: {{ . | quote }}
{{- end }}
- name: METRICS_PORT
  value: "9100"
- name: HOME
  value: /var/cache/imageserve
- name: KERAS_HOME
  value: /var/cache/imageserve/keras
{{- if and $model.hasGpu $model.gpu.allowGrowth }}
- name: TF_FORCE_GPU_ALLOW_GROWTH
  value: "true"
{{- end }}
{{- end -}}

{{/* Of the container that fetches a model; its settings are those of the libraries. */}}
{{- define "imageserve.fetchEnv" -}}
{{ include "imageserve.logEnv" . }}
{{- end -}}

{{- define "imageserve.autoscalerEnv" -}}
{{ include "imageserve.redisClientEnv" . }}
- name: SCALING_FILE
  value: /etc/imageserve/scaling.yaml
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: METRICS_PORT
  value: "9090"
{{ include "imageserve.logEnv" . }}
{{- end -}}

{{- define "imageserve.redisEnv" -}}
- name: REDISCLI_AUTH
  valueFrom:
    secretKeyRef:
      name: {{ include "imageserve.redisSecretName" . | quote }}
      key: {{ include "imageserve.redisSecretKey" . | quote }}
{{- end -}}
