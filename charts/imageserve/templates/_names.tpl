{{/* Names, labels and images of all objects. */}}

{{- define "imageserve.chartName" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of all names: the release name, plus the chart name if the release name does not contain it. */}}
{{- define "imageserve.fullname" -}}
{{- $chart := include "imageserve.chartName" . -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $name := ternary $release (printf "%s-%s" $release $chart) (contains $chart $release) -}}
{{- default $name .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
The name of one object: (list . "web"). At most 52 characters, the limit of a StatefulSet. A longer name
is cut and gets a hash, so that names stay distinct.
*/}}
{{- define "imageserve.name" -}}
{{- $name := printf "%s-%s" (include "imageserve.fullname" (index . 0)) (index . 1) -}}
{{- if gt (len $name) 52 -}}
{{- $begin := include "imageserve.fullname" (index . 0) | trunc 20 | trimSuffix "-" -}}
{{- $end := index . 1 | trunc 22 | trimSuffix "-" -}}
{{- printf "%s-%s-%s" $begin ($name | sha256sum | trunc 8) $end -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* Selector labels of pods, which must never change: (list . "web"). */}}
{{- define "imageserve.selector" -}}
app.kubernetes.io/name: {{ include "imageserve.chartName" (index . 0) | quote }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* Selector labels of the pods of one model: (list . $model). */}}
{{- define "imageserve.modelSelector" -}}
{{ include "imageserve.selector" (list (index . 0) "model") }}
imageserve-model: {{ (index . 1).slug | quote }}
{{- end -}}

{{/* All labels of an object: (list . "web"), or (list . "web" $more) with a map of more labels. */}}
{{- define "imageserve.labels" -}}
{{- $root := index . 0 -}}
{{- $labels := deepCopy $root.Values.commonLabels -}}
{{- if gt (len .) 2 -}}{{- $labels = merge (deepCopy (index . 2)) $labels -}}{{- end -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_"))
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" (ternary "kubectl" $root.Release.Service $root.Values.manifests)
  "app.kubernetes.io/part-of" "imageserve" -}}
{{- $selector := include "imageserve.selector" (list $root (index . 1)) | fromYaml -}}
{{- toYaml (mergeOverwrite $labels $own $selector) -}}
{{- end -}}

{{/* All labels of pods, without the chart's version: a new version would restart them. */}}
{{- define "imageserve.podLabels" -}}
{{- $root := index . 0 -}}
{{- $labels := merge (deepCopy (index . 2)) (deepCopy $root.Values.commonLabels) -}}
{{- $selector := include "imageserve.selector" (list $root (index . 1)) | fromYaml -}}
{{- toYaml (mergeOverwrite $labels (dict "app.kubernetes.io/part-of" "imageserve") $selector) -}}
{{- end -}}

{{/* The image of a component: (list . .Values.web.image "registry for it" "tag for it"). */}}
{{- define "imageserve.image" -}}
{{- $image := index . 1 -}}
{{- $path := $image.repository -}}
{{- with default (index . 2) $image.registry -}}{{- $path = printf "%s/%s" . $path -}}{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $path $image.digest -}}
{{- else -}}
{{- $default := printf "%s%s" (index . 3) (default "" $image.tagSuffix) -}}
{{- printf "%s:%s" $path (default $default $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* One of imageserve's own images: (list . .Values.web.image). */}}
{{- define "imageserve.ownImage" -}}
{{- $root := index . 0 -}}
{{- $registry := default (default "" $root.Values.global.imageRegistry) $root.Values.image.registry -}}
{{- include "imageserve.image" (list $root (index . 1) $registry $root.Chart.AppVersion) -}}
{{- end -}}

{{- define "imageserve.redisImage" -}}
{{- $registry := default "" .Values.global.imageRegistry -}}
{{- include "imageserve.image" (list . .Values.redis.image $registry "") -}}
{{- end -}}

{{/* The name of a component's service account: (list . .Values.web.serviceAccount "web"). */}}
{{- define "imageserve.serviceAccount" -}}
{{- $account := index . 1 -}}
{{- if $account.create -}}
{{- default (include "imageserve.name" (list (index . 0) (index . 2))) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}
