//go:build ignore

// schemas writes JSON schemas of the objects that the Helm chart makes: of Kubernetes, KEDA and the Prometheus
// operator. Their Go modules have the definitions. Fields that are not defined are refused.
//
//	go run .ci/schemas.go SWAGGER FOLDER CRD…
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

type object = map[string]any

// kinds of Kubernetes in the chart, by the names of their definitions.
var kinds = []string{
	"io.k8s.api.apps.v1.Deployment", "io.k8s.api.apps.v1.StatefulSet", "io.k8s.api.core.v1.Service",
	"io.k8s.api.networking.v1.Ingress", "io.k8s.api.networking.v1.NetworkPolicy",
	"io.k8s.api.policy.v1.PodDisruptionBudget", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

func run(swagger, folder string, crds []string) error {
	text, err := os.ReadFile(swagger)
	if err != nil {
		return err
	}
	var api struct{ Definitions map[string]object }
	if err := json.Unmarshal(text, &api); err != nil {
		return err
	}
	for _, name := range kinds {
		parts := strings.Split(name, ".")
		kind, version := parts[len(parts)-1], parts[len(parts)-2]
		if api.Definitions[name] == nil {
			return fmt.Errorf("%s has no %s", swagger, name)
		}
		schema := closed(resolved(api.Definitions[name], api.Definitions).(object)).(object)
		if err := write(folder, kind, version, schema); err != nil {
			return err
		}
	}
	for _, crd := range crds {
		if err := writeCRD(crd, folder); err != nil {
			return fmt.Errorf("%s: %w", crd, err)
		}
	}
	return nil
}

func writeCRD(file, folder string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema object `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return err
	}
	for _, v := range crd.Spec.Versions {
		schema := closed(v.Schema.OpenAPIV3Schema).(object)
		schema["properties"].(object)["metadata"] = object{"type": "object"} // a CRD leaves it open
		if err := write(folder, crd.Spec.Names.Kind, v.Name, schema); err != nil {
			return err
		}
	}
	return nil
}

func write(folder, kind, version string, schema object) error {
	schema["required"] = []any{"apiVersion", "kind", "metadata", "spec"}
	text, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, strings.ToLower(kind)+"-"+version+".json"), text, 0o600)
}

// resolved replaces references by what they refer to. The kinds of the chart have no cycles.
func resolved(v any, definitions map[string]object) any {
	switch v := v.(type) {
	case object:
		if ref, ok := v["$ref"].(string); ok {
			return resolved(definitions[strings.TrimPrefix(ref, "#/definitions/")], definitions)
		}
		all := object{}
		for key, member := range v {
			all[key] = resolved(member, definitions)
		}
		return all
	case []any:
		all := make([]any, len(v))
		for i, member := range v {
			all[i] = resolved(member, definitions)
		}
		return all
	}
	return v
}

// closed refuses fields that have no definition. It accepts numbers where Kubernetes does: for quantities, and
// for ports and percentages.
func closed(v any) any {
	switch v := v.(type) {
	case object:
		all := object{}
		for key, member := range v {
			all[key] = closed(member)
		}
		properties, isSchema := all["properties"].(object)
		if isSchema && all["x-kubernetes-preserve-unknown-fields"] != true && all["additionalProperties"] == nil {
			all["properties"], all["additionalProperties"] = maps.Clone(properties), false
		}
		description, _ := all["description"].(string)
		if all["format"] == "int-or-string" || all["x-kubernetes-int-or-string"] == true ||
			strings.HasPrefix(description, "Quantity is a fixed-point") {
			return object{"type": []any{"string", "number"}}
		}
		return all
	case []any:
		for i := range v {
			v[i] = closed(v[i])
		}
	}
	return v
}
