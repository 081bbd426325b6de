{{/*
Values that occur twice under a key in a list of maps, as text: (list $maps "name").
*/}}
{{- define "imageserve.twice" -}}
{{- $key := index . 1 -}}
{{- $seen := list -}}
{{- $twice := list -}}
{{- range index . 0 -}}
{{- $value := get . $key -}}
{{- if has $value $seen -}}{{- $twice = append $twice $value -}}{{- end -}}
{{- $seen = append $seen $value -}}
{{- end -}}
{{- join ", " (uniq $twice) -}}
{{- end -}}
