{{/* Rules shared by several network policies. */}}

{{- define "imageserve.egressToNames" -}}
- ports:
    {{- range .Values.networkPolicy.dns.ports }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.dns.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "imageserve.egressToRedis" -}}
{{- $external := .Values.redis.external -}}
{{- if .Values.redis.enabled -}}
- ports:
    - port: 6379
      protocol: TCP
  to:
    - podSelector:
        matchLabels:
          {{- include "imageserve.selector" (list . "redis") | nindent 10 }}
{{- else -}}
{{- $ports := list (int $external.port) -}}
{{- $nodes := list -}}
{{- if $external.sentinel.enabled -}}
{{- $nodes = $external.sentinel.nodes -}}
{{- else if $external.cluster.enabled -}}
{{- $nodes = $external.cluster.nodes -}}
{{- end -}}
{{- range $nodes -}}
{{- $ports = append $ports (regexFind "[0-9]+$" . | int) -}}
{{- end -}}
- ports:
    {{- range $ports | uniq }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.externalRedis.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* The collector of traces, on the port that its address names or means. */}}
{{- define "imageserve.egressToCollector" -}}
{{- with .Values.tracing.endpoint -}}
{{- $address := urlParse . -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $address.host) -}}
- ports:
    - port: {{ $port | default (ternary 443 80 (eq $address.scheme "https")) }}
      protocol: TCP
  {{- with $.Values.networkPolicy.tracing.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* "true" if the check of an external Redis is rendered. */}}
{{- define "imageserve.hasRedisCheck" -}}
{{- if not (or .Values.redis.enabled .Values.manifests (not (dig "check" "enabled" true .Values.redis.external))) -}}true{{- end -}}
{{- end -}}

{{/* Annotations of the hook that checks an external Redis; the dot is its weight. */}}
{{- define "imageserve.redisCheckHook" -}}
helm.sh/hook: pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{/* "true" if the test hook is rendered. */}}
{{- define "imageserve.hasTest" -}}
{{- if and .Values.tests.enabled (not .Values.manifests) -}}true{{- end -}}
{{- end -}}
