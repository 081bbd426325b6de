{{/* Derived values: sizes, seconds, the models with their defaults. */}}

{{/* Ends the rendering if the dot is missing: as 0 or as nothing it would be another value than the default. */}}
{{- define "imageserve.needed" -}}
{{- if kindIs "invalid" . -}}
{{- fail "A value that this version of the chart needs is missing: upgrade with --reset-then-reuse-values instead of --reuse-values, and set no value to null that has a default." -}}
{{- end -}}
{{- end -}}

{{/* A size in bytes, as a whole number: 67108864 for "64Mi". Unreadable text gives 0. */}}
{{- define "imageserve.bytes" -}}
{{- include "imageserve.needed" . -}}
{{- if kindIs "string" . -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $unit := regexReplaceAll "^[0-9.]+" . "" | trimSuffix "B" -}}
{{- $units := dict "" 1 "k" 1000 "K" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000
  "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- if and $number (hasKey $units $unit) -}}
{{- mulf (float64 $number) (get $units $unit) | int64 -}}
{{- else -}}
0
{{- end -}}
{{- else -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{/* A number for an environment variable: large numbers without an exponent. */}}
{{- define "imageserve.number" -}}
{{- include "imageserve.needed" . -}}
{{- if eq (floor .) (float64 .) -}}{{- int64 . -}}{{- else -}}{{- . -}}{{- end -}}
{{- end -}}

{{/* A size for an environment variable. */}}
{{- define "imageserve.size" -}}
{{- include "imageserve.needed" . -}}
{{- if kindIs "string" . -}}{{- . -}}{{- else -}}{{- int64 . -}}{{- end -}}
{{- end -}}

{{/* Merges a map into another one, in place: (list $below $above). */}}
{{- define "imageserve.overlay" -}}
{{- $below := index . 0 -}}
{{- range $key, $value := index . 1 -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $below $key)) -}}
{{- include "imageserve.overlay" (list (get $below $key) $value) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $below $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The networks of keras.applications, as JSON {"names": […]}. */}}
{{- define "imageserve.networks" -}}
{{- toJson (dict "names" (list
  "convnext_tiny" "convnext_small" "convnext_base" "convnext_large" "convnext_xlarge"
  "densenet121" "densenet169" "densenet201" "efficientnet_b0" "efficientnet_b1" "efficientnet_b2"
  "efficientnet_b3" "efficientnet_b4" "efficientnet_b5" "efficientnet_b6" "efficientnet_b7"
  "efficientnet_v2_b0" "efficientnet_v2_b1" "efficientnet_v2_b2" "efficientnet_v2_b3"
  "efficientnet_v2_s" "efficientnet_v2_m" "efficientnet_v2_l" "inception_resnet_v2" "inception_v3"
  "mobilenet" "mobilenet_v2" "mobilenet_v3_large" "mobilenet_v3_small" "nasnet_large"
  "nasnet_mobile" "resnet50" "resnet101" "resnet152" "resnet50_v2" "resnet101_v2" "resnet152_v2"
  "vgg16" "vgg19" "xception")) -}}
{{- end -}}

{{/*
The enabled models with defaults and derived values, as JSON {"models": […]}. The default model is the
first, the others follow by name.
*/}}
{{- define "imageserve.models" -}}
{{- $networks := (include "imageserve.networks" . | fromJson).names -}}
{{- $first := list -}}
{{- $others := list -}}
{{- range $name, $entry := .Values.models -}}
{{- $model := deepCopy $.Values.modelDefaults -}}
{{- include "imageserve.overlay" (list $model (default dict $entry)) -}}
{{- if $model.enabled -}}
{{- $slug := regexReplaceAll "[^a-z0-9]+" (lower $name) "-" | trimAll "-" -}}
{{- $_ := set $model "name" $name -}}
{{- $_ := set $model "slug" $slug -}}
{{- $_ := set $model "fullname" (include "imageserve.name" (list $ (printf "model-%s" $slug))) -}}
{{- include "imageserve.needed" $model.fetch -}}
{{- include "imageserve.needed" $model.fetch.source -}}
{{- if $model.fetch.source -}}
{{- $_ := set $model "fetchedNetwork" $model.network -}}
{{- $version := printf "%s %s" $model.fetch.source $model.fetch.sha256 | sha256sum | trunc 12 -}}
{{- $keptIn := ternary $model.versions.dir "" (ne $model.versions.existingClaim "") -}}
{{- $_ := set $model "fetchedTo" (default "/var/lib/imageserve/models" $keptIn) -}}
{{- $_ := set $model "network" (printf "%s/%s/%s" (trimSuffix "/" $model.fetchedTo) $name (default $version $model.fetch.version)) -}}
{{- end -}}
{{- $_ := set $model "network" (default $name $model.network) -}}
{{- $_ := set $model "queue" (default (printf "image_queue_%s" $name) $model.queue) -}}
{{- $_ := set $model "hasGpu" (or (gt (int $model.gpu.count) 0) (gt (len $model.gpu.resourceClaims) 0)) -}}
{{- $_ := set $model "isKnown" (or (has $model.network $networks) (eq $model.network "shapes") (eq $model.network "stand-in") (hasPrefix "stand-in:" $model.network)) -}}
{{- $_ := set $model "isFile" (regexMatch "[.](keras|onnx)$" $model.network) -}}
{{- $needs := and (eq $model.weights "imagenet") (has $model.network $networks) -}}
{{- $_ := set $model "needsDownload" $needs -}}
{{- $_ := set $model "downloads" (or (eq $model.weightsDownload "always") (and (eq $model.weightsDownload "auto") $needs)) -}}
{{- if eq $name $.Values.defaultModel -}}
{{- $first = append $first $model -}}
{{- else -}}
{{- $others = append $others $model -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson (dict "models" (default list (concat $first $others))) -}}
{{- end -}}

{{/* One entry of MODELS_FILE. */}}
{{- define "imageserve.modelEntry" -}}
{{ .name | quote }}:
  queue: {{ .queue | quote }}
  network: {{ .network | quote }}
  weights: {{ .weights | quote }}
  {{- with .labels }}
  labels: {{ . | quote }}
  {{- end }}
  {{- range $key := list "inputSize" "interpolation" "resize" "resizeTo" "cropRounding" "antialias" "pad" "colour" "layout" "pixelScaling" "activation" "embedding" }}
  {{- $value := get $ $key }}
  {{- /* 0 is a value of pad alone. */}}
  {{- if and (ne (toString $value) "") (or (ne (toString $value) "0") (eq $key "pad")) }}
  {{ $key | trimPrefix "pixel" | snakecase }}: {{ toJson $value }}
  {{- end }}
  {{- end }}
{{- end -}}

{{- define "imageserve.modelsFile" -}}
{{- range (include "imageserve.models" . | fromJson).models }}
{{ include "imageserve.modelEntry" . }}
{{- end }}
{{- end -}}

{{/* Most seconds that a request may take in a web pod, for the timeouts of proxies in front of it. */}}
{{- define "imageserve.requestSeconds" -}}
{{- addf .Values.limits.requestTimeoutSeconds .Values.limits.uploadTimeoutSeconds | ceil | int64 -}}
{{- end -}}

{{/* Drain, answer the requests in progress, five seconds of gunicorn's own, five seconds reserve. */}}
{{- define "imageserve.webGraceSeconds" -}}
{{- addf .Values.web.drainSeconds (include "imageserve.requestSeconds" .) 10 | ceil | int64 -}}
{{- end -}}

{{/* Finish the batch, release the other jobs, 15 seconds for the exit of TensorFlow. */}}
{{- define "imageserve.modelGraceSeconds" -}}
{{- addf .shutdownSeconds 15 | ceil | int64 -}}
{{- end -}}

{{/* "true" if web pods serve gRPC too. */}}
{{- define "imageserve.hasGrpc" -}}
{{- include "imageserve.needed" .Values.web.grpc -}}
{{- if .Values.web.grpc.enabled -}}true{{- end -}}
{{- end -}}

{{/* The memory limit in bytes; 0 if there is none. */}}
{{- define "imageserve.memoryLimit" -}}
{{- include "imageserve.bytes" (default 0 (dig "limits" "memory" 0 .)) -}}
{{- end -}}

{{- define "imageserve.redisServiceName" -}}
{{- include "imageserve.name" (list . "redis") -}}
{{- end -}}

{{- define "imageserve.redisUrl" -}}
{{- $external := .Values.redis.external -}}
{{- if .Values.redis.enabled -}}
{{- printf "redis://%s:%d/0" (include "imageserve.redisServiceName" .) (int .Values.redis.service.port) -}}
{{- else -}}
{{- $scheme := ternary "rediss" "redis" $external.tls.enabled -}}
{{- if $external.sentinel.enabled -}}
{{- printf "%s+sentinel://%s/%s/%d" $scheme (join "," $external.sentinel.nodes) $external.sentinel.masterName (int $external.database) -}}
{{- else if $external.cluster.enabled -}}
{{- printf "%s+cluster://%s" $scheme (join "," $external.cluster.nodes) -}}
{{- else -}}
{{- printf "%s://%s:%d/%d" $scheme $external.host (int $external.port) (int $external.database) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the Redis password; empty if there is none. */}}
{{- define "imageserve.redisSecretName" -}}
{{- if .Values.redis.enabled -}}
{{- default (include "imageserve.name" (list . "redis")) .Values.redis.auth.existingSecret -}}
{{- else -}}
{{- .Values.redis.external.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "imageserve.redisSecretKey" -}}
{{- ternary .Values.redis.auth.secretKey .Values.redis.external.secretKey .Values.redis.enabled -}}
{{- end -}}

{{/*
The password of the release's own Redis: the given one, else the one in the cluster, else a random one.
Within one rendering it is always the same.
*/}}
{{- define "imageserve.redisPassword" -}}
{{- $auth := .Values.redis.auth -}}
{{- if not (hasKey $auth "_made") -}}
{{- $password := $auth.password -}}
{{- if not $password -}}
{{- $known := lookup "v1" "Secret" .Release.Namespace (include "imageserve.redisSecretName" .) -}}
{{- $password = get (default dict $known.data) $auth.secretKey | b64dec -}}
{{- end -}}
{{- $_ := set $auth "_made" (default (randAlphaNum 32) $password) -}}
{{- end -}}
{{- $auth._made -}}
{{- end -}}

{{- define "imageserve.keysSecretName" -}}
{{- default (include "imageserve.name" (list . "api-keys")) .Values.apiKeys.existingSecret -}}
{{- end -}}
