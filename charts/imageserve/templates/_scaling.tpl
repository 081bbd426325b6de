{{/* The autoscaler: whether it runs, its rights, its configuration. */}}

{{/* "true" if the autoscaler itself sets the number of model pods. */}}
{{- define "imageserve.isBuiltin" -}}
{{- if eq .Values.autoscaling.mode "builtin" -}}true{{- end -}}
{{- end -}}

{{/* "true" if the autoscaler runs, also if something else follows its recommendation. */}}
{{- define "imageserve.hasAutoscaler" -}}
{{- $mode := .Values.autoscaling.mode -}}
{{- $feeds := or (eq $mode "hpa") (and (eq $mode "keda") (eq .Values.autoscaling.keda.source "recommendation")) -}}
{{- if or $feeds (eq $mode "builtin") -}}true{{- end -}}
{{- end -}}

{{/* "true" if it changes nothing. */}}
{{- define "imageserve.isDryRun" -}}
{{- if or .Values.autoscaler.dryRun (not (include "imageserve.isBuiltin" .)) -}}true{{- end -}}
{{- end -}}

{{/* Names of the model Deployments, as JSON {"names": […]}. */}}
{{- define "imageserve.modelDeployments" -}}
{{- $names := list -}}
{{- range (include "imageserve.models" . | fromJson).models -}}
{{- $names = append $names .fullname -}}
{{- end -}}
{{- toJson (dict "names" $names) -}}
{{- end -}}

{{/* "true" if the autoscaler marks idle pods for Kubernetes. */}}
{{- define "imageserve.setsDeletionCost" -}}
{{- if not (include "imageserve.isDryRun" .) -}}
{{- range (include "imageserve.models" . | fromJson).models -}}
{{- if .scaling.deletionCost -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The policy of one model: every value of `scaling` that the autoscaler reads, under the autoscaler's name,
such as target_wait_s for targetWaitSeconds.
*/}}
{{- define "imageserve.policy" -}}
{{- include "imageserve.needed" .scaling.foresight -}}
{{- include "imageserve.needed" .scaling.budgetWeight -}}
{{- range $name, $value := omit .scaling "replicas" "deletionCost" "allowColdTimeouts" }}
{{ regexReplaceAll "([A-Z])" $name "_${1}" | lower | replace "_seconds" "_s" }}: {{ include "imageserve.policyValue" $value }}
{{- end }}
{{- end -}}

{{/* One of its values. YAML takes a bare `off` for false. */}}
{{- define "imageserve.policyValue" -}}
{{- if kindIs "string" . }}{{ quote . }}{{ else if kindIs "bool" . }}"off"{{ else }}{{ include "imageserve.number" . }}{{ end -}}
{{- end -}}

{{/* GPUs of one pod of a model; each claim of a device counts as one. */}}
{{- define "imageserve.gpusPerPod" -}}
{{- add (int64 .gpu.count) (len .gpu.resourceClaims) -}}
{{- end -}}

{{/* SCALING_FILE. */}}
{{- define "imageserve.scalingFile" -}}
interval_s: {{ include "imageserve.number" .Values.autoscaler.intervalSeconds }}
dry_run: {{ eq (include "imageserve.isDryRun" .) "true" }}
{{- if include "imageserve.isBuiltin" . }}
lease: {{ include "imageserve.name" (list . "autoscaler") | quote }}
{{- end }}
{{- with .Values.autoscaling.gpuBudget }}
gpu_budget: {{ include "imageserve.number" . }}
{{- end }}
models:
  {{- range $model := (include "imageserve.models" . | fromJson).models }}
  {{- $labels := list }}
  {{- range $key, $value := include "imageserve.modelSelector" (list $ $model) | fromYaml }}
  {{- $labels = append $labels (printf "%s=%s" $key $value) }}
  {{- end }}
  {{ $model.name | quote }}:
    queue: {{ $model.queue | quote }}
    deployment: {{ $model.fullname | quote }}
    pod_selector: {{ join "," $labels | quote }}
    batch_size: {{ include "imageserve.number" $model.batchSize }}
    deletion_cost: {{ $model.scaling.deletionCost }}
    {{- if $.Values.autoscaling.gpuBudget }}
    gpus: {{ include "imageserve.gpusPerPod" $model }}
    {{- end }}
    policy:
      {{- include "imageserve.policy" $model | trim | nindent 6 }}
  {{- end }}
{{- end -}}

{{/*
`behavior` of a HorizontalPodAutoscaler: (list seconds $given) is $given, or if that is empty, a behavior
that waits this many seconds before it removes pods.
*/}}
{{- define "imageserve.hpaBehavior" -}}
{{- $seconds := min 3600 (int64 (ceil (index . 0))) -}}
{{- if index . 1 -}}
{{- toYaml (index . 1) -}}
{{- else -}}
scaleDown:
  stabilizationWindowSeconds: {{ $seconds }}
{{- end -}}
{{- end -}}
