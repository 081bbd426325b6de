{{/* The load test: arguments and pods. The name of the Job hashes the spec below, its comments included. */}}

{{- define "imageserve.loadtestArguments" -}}
{{- $loadtest := .Values.loadtest -}}
{{- $url := printf "http://%s:%d" (include "imageserve.name" (list . "web")) (int .Values.web.service.port) -}}
{{- $arguments := list "loadtest" $url -}}
{{- if $loadtest.scenarioConfigMap -}}
{{- $arguments = concat $arguments (list "--scenario" "/etc/loadtest/scenario/scenario.yaml") -}}
{{- else if $loadtest.scenario -}}
{{- $arguments = concat $arguments (list "--scenario" $loadtest.scenario) -}}
{{- else -}}
{{- if $loadtest.clients -}}
{{- $arguments = concat $arguments (list "--clients" (include "imageserve.number" $loadtest.clients)) -}}
{{- else -}}
{{- $arguments = concat $arguments (list "--rate" (include "imageserve.number" $loadtest.rate) "--arrivals" $loadtest.arrivals) -}}
{{- end -}}
{{- $arguments = concat $arguments (list "--duration" (include "imageserve.number" $loadtest.durationSeconds)) -}}
{{- end -}}
{{- /* The pictures of the image show what the bundled model knows. For another model their answers are
learnt first, unless the user's own scenario or arguments say which pictures are sent. */ -}}
{{- range $i, $model := (include "imageserve.models" . | fromJson).models -}}
{{- $isOurs := or (eq $model.network "shapes") (eq $model.network "stand-in") (hasPrefix "stand-in:" $model.network) -}}
{{- if and (eq $i 0) (not $isOurs) (not $loadtest.scenarioConfigMap) (not $loadtest.extraArgs) -}}
{{- $arguments = append $arguments "--learn" -}}
{{- end -}}
{{- end -}}
{{- range $loadtest.slo -}}
{{- $arguments = concat $arguments (list "--slo" .) -}}
{{- end -}}
{{- if .Values.apiKeys.enabled -}}
{{- $arguments = concat $arguments (list "--api-key-file" "/etc/loadtest/keys/keys") -}}
{{- end -}}
{{- toYaml (concat $arguments $loadtest.extraArgs (list "--json" "-")) -}}
{{- end -}}

{{- define "imageserve.loadtestVolumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- with .Values.loadtest.scenarioConfigMap }}
- name: scenario
  configMap:
    name: {{ . | quote }}
    defaultMode: 0444
    items:
      - key: scenario.yaml
        path: scenario.yaml
{{- end }}
{{- if .Values.apiKeys.enabled }}
- name: keys
  secret:
    secretName: {{ include "imageserve.keysSecretName" . | quote }}
    defaultMode: 0440
    items:
      - key: keys
        path: keys
{{- end }}
{{- end -}}

{{- define "imageserve.loadtestMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.loadtest.scenarioConfigMap }}
- name: scenario
  mountPath: /etc/loadtest/scenario
  readOnly: true
{{- end }}
{{- if .Values.apiKeys.enabled }}
- name: keys
  mountPath: /etc/loadtest/keys
  readOnly: true
{{- end }}
{{- end -}}

{{- define "imageserve.loadtestJob" -}}
{{- $loadtest := .Values.loadtest -}}
{{- $selector := include "imageserve.selector" (list . "loadtest") -}}
{{- $pods := include "imageserve.number" $loadtest.parallelism -}}
# Each pod sends its share of the load, which it knows by its index, and gives its verdict; the Job
# succeeds when all do. Nothing is tried again: a second run would be another load.
completionMode: Indexed
parallelism: {{ $pods }}
completions: {{ $pods }}
{{- if gt (int $pods) 1 }}
# Of several pods, one that has failed must not have the others ended and their logs taken away.
backoffLimitPerIndex: 0
{{- else }}
backoffLimit: 0
{{- end }}
activeDeadlineSeconds: {{ $loadtest.timeoutSeconds }}
ttlSecondsAfterFinished: {{ $loadtest.ttlSecondsAfterFinished }}
template:
  metadata:
    labels:
      {{- include "imageserve.podLabels" (list . "loadtest" $loadtest.podLabels) | nindent 6 }}
    {{- with $loadtest.podAnnotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    restartPolicy: Never
    {{- include "imageserve.podSpec" (dict "root" . "component" $loadtest "selector" $selector) | nindent 4 }}
    containers:
      - name: loadtest
        image: {{ include "imageserve.ownImage" (list . $loadtest.image) | quote }}
        imagePullPolicy: {{ default .Values.image.pullPolicy $loadtest.image.pullPolicy }}
        args:
          {{- include "imageserve.loadtestArguments" . | nindent 10 }}
        env:
          - name: LOADTEST_SHARDS
            value: {{ $pods | quote }}
        resources:
          {{- toYaml $loadtest.resources | nindent 10 }}
        securityContext:
          {{- toYaml $loadtest.securityContext | nindent 10 }}
        volumeMounts:
          {{- include "imageserve.loadtestMounts" . | nindent 10 }}
    volumes:
      {{- include "imageserve.loadtestVolumes" . | nindent 6 }}
{{- end -}}
