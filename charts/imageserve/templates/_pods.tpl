{{/* Parts of pod specs. */}}

{{/*
Fields of all pod specs: (dict "root" . "component" .Values.web "selector" "labels as YAML"), and "token"
true for pods that call the API server.
*/}}
{{- define "imageserve.podSpec" -}}
automountServiceAccountToken: {{ default false .token }}
enableServiceLinks: false
{{- with default .root.Values.global.imagePullSecrets .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ if kindIs "map" . }}{{ .name | quote }}{{ else }}{{ . | quote }}{{ end }}
  {{- end }}
{{- end }}
{{- with .component.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .component.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.topologySpreadConstraints }}
{{- $constraints := list }}
{{- range . }}
{{- $selector := dict "labelSelector" (dict "matchLabels" (fromYaml $.selector)) }}
{{- $constraints = append $constraints (merge (deepCopy .) $selector) }}
{{- end }}
topologySpreadConstraints:
  {{- toYaml $constraints | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
One volume with the models file or the scaling file, the API keys and the certificate of Redis:
(list . "models" true) includes the keys.
*/}}
{{- define "imageserve.configVolume" -}}
{{- $root := index . 0 -}}
{{- $file := printf "%s.yaml" (index . 1) -}}
{{- $name := ternary "autoscaler" "models" (eq (index . 1) "scaling") -}}
- name: config
  projected:
    defaultMode: 0440
    sources:
      - configMap:
          name: {{ include "imageserve.name" (list $root $name) }}
          items:
            - key: {{ $file }}
              path: {{ $file }}
      {{- if and (index . 2) $root.Values.apiKeys.enabled }}
      - secret:
          name: {{ include "imageserve.keysSecretName" $root | quote }}
          items:
            - key: keys
              path: keys/keys
      {{- end }}
      {{- with include "imageserve.redisCaSource" $root }}
      {{- . | nindent 6 }}
      {{- end }}
{{- end -}}

{{/* The source of a projected volume with the certificate of an external Redis, if it needs one. */}}
{{- define "imageserve.redisCaSource" -}}
{{- $tls := .Values.redis.external.tls -}}
{{- if and (not .Values.redis.enabled) $tls.enabled $tls.caSecret -}}
- secret:
    name: {{ $tls.caSecret | quote }}
    items:
      - key: {{ $tls.caKey | quote }}
        path: redis-ca/ca.crt
{{- end -}}
{{- end -}}

{{- define "imageserve.webVolumes" -}}
{{ include "imageserve.configVolume" (list . "models" true) }}
- name: run
  emptyDir:
    medium: Memory
    sizeLimit: 256Mi
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- end -}}

{{- define "imageserve.webMounts" -}}
- name: config
  mountPath: /etc/imageserve
  readOnly: true
- name: run
  mountPath: /run/imageserve
- name: tmp
  mountPath: /tmp
{{- end -}}

{{/* The container that serves the Open Inference Protocol over gRPC, in each web pod. */}}
{{- define "imageserve.grpcContainer" -}}
{{- $web := .Values.web -}}
- name: grpc
  image: {{ include "imageserve.ownImage" (list . $web.image) | quote }}
  imagePullPolicy: {{ default .Values.image.pullPolicy $web.image.pullPolicy }}
  args: [grpc]
  env:
    {{- include "imageserve.grpcEnv" . | nindent 4 }}
    {{- with $web.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - name: grpc
      containerPort: 8002
      protocol: TCP
    - name: metrics
      containerPort: 9100
      protocol: TCP
  startupProbe:
    httpGet:
      path: /healthz
      port: metrics
    periodSeconds: 2
    timeoutSeconds: 3
    failureThreshold: {{ divf $web.startup.timeoutSeconds 2 | ceil | int64 }}
  livenessProbe:
    httpGet:
      path: /healthz
      port: metrics
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  # The protocol's own health service, at the door of the clients.
  readinessProbe:
    grpc:
      port: 8002
    periodSeconds: 3
    timeoutSeconds: 3
    failureThreshold: 2
  resources:
    {{- toYaml $web.grpc.resources | nindent 4 }}
  securityContext:
    {{- toYaml $web.securityContext | nindent 4 }}
  volumeMounts:
    {{- include "imageserve.webMounts" . | nindent 4 }}
    {{- with $web.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* (list . $model) */}}
{{- define "imageserve.modelVolumes" -}}
{{- $model := index . 1 -}}
{{ include "imageserve.configVolume" (list (index . 0) "models" false) }}
- name: cache
  {{- if $model.cache.existingClaim }}
  persistentVolumeClaim:
    claimName: {{ $model.cache.existingClaim | quote }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ $model.cache.sizeLimit }}
  {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- if $model.versions.existingClaim }}
- name: versions
  persistentVolumeClaim:
    claimName: {{ $model.versions.existingClaim | quote }}
    {{- if not $model.fetch.source }}
    readOnly: true
    {{- end }}
{{- else if $model.fetch.source }}
- name: versions
  emptyDir:
    sizeLimit: {{ $model.fetch.sizeLimit }}
{{- end }}
{{- with $model.shm.sizeLimit }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ . }}
{{- end }}
{{- end -}}

{{/* (list . $model) */}}
{{- define "imageserve.modelMounts" -}}
{{- $model := index . 1 -}}
- name: config
  mountPath: /etc/imageserve
  readOnly: true
- name: cache
  mountPath: /var/cache/imageserve
- name: tmp
  mountPath: /tmp
{{- if $model.versions.existingClaim }}
- name: versions
  mountPath: {{ $model.versions.dir | quote }}
  readOnly: true
{{- else if $model.fetch.source }}
- name: versions
  mountPath: {{ $model.fetchedTo }}
  readOnly: true
{{- end }}
{{- if $model.shm.sizeLimit }}
- name: shm
  mountPath: /dev/shm
{{- end }}
{{- end -}}

{{/* The container that fetches a model into the volume of versions: (list . $model) */}}
{{- define "imageserve.fetchContainer" -}}
{{- $root := index . 0 -}}
{{- $model := index . 1 -}}
{{- $fetch := $model.fetch -}}
- name: fetch
  image: {{ include "imageserve.ownImage" (list $root $model.image) | quote }}
  imagePullPolicy: {{ default $root.Values.image.pullPolicy $model.image.pullPolicy }}
  args:
    - models
    - fetch
    - {{ $fetch.source | quote }}
    - --to
    - {{ $model.network | quote }}
    {{- with $fetch.sha256 }}
    - --sha256
    - {{ . | quote }}
    {{- end }}
  env:
    {{- include "imageserve.fetchEnv" $root | nindent 4 }}
    {{- with $fetch.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $fetch.existingSecret }}
  envFrom:
    - secretRef:
        name: {{ . | quote }}
  {{- end }}
  resources:
    {{- toYaml $fetch.resources | nindent 4 }}
  securityContext:
    {{- toYaml $model.securityContext | nindent 4 }}
  volumeMounts:
    - name: versions
      mountPath: {{ $model.fetchedTo | quote }}
    {{- with $model.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "imageserve.autoscalerVolumes" -}}
{{ include "imageserve.configVolume" (list . "scaling" false) }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- end -}}

{{- define "imageserve.autoscalerMounts" -}}
- name: config
  mountPath: /etc/imageserve
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- end -}}

{{- define "imageserve.redisVolumes" -}}
- name: config
  configMap:
    name: {{ include "imageserve.name" (list . "redis") }}
    defaultMode: 0440
- name: data
  {{- if .Values.redis.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ default (include "imageserve.name" (list . "redis-data")) .Values.redis.persistence.existingClaim | quote }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.redis.persistence.size }}
  {{- end }}
{{- end -}}

{{- define "imageserve.redisMounts" -}}
- name: config
  mountPath: /etc/redis
  readOnly: true
- name: data
  mountPath: /data
{{- end -}}

{{/*
Annotations of pods: (dict "root" . "config" "configuration text" "volumes" "cache,tmp" "more"
.Values.web.podAnnotations). A changed configuration replaces the pods. The named volumes hold nothing
of value, so the cluster autoscaler may remove their node.
*/}}
{{- define "imageserve.podAnnotations" -}}
{{- $annotations := dict "checksum/config" (sha256sum .config) -}}
{{- if .root.Values.redis.enabled -}}
{{- $_ := set $annotations "checksum/redis-secret" (include "imageserve.redisSecretChecksum" .root) -}}
{{- end -}}
{{- if .volumes -}}
{{- $_ := set $annotations "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes" .volumes -}}
{{- end -}}
{{- toYaml (mergeOverwrite $annotations .more) -}}
{{- end -}}
