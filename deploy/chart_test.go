package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"sheaf/events"
)

// TestChartAlertsAreTheRules compares the copy inside the chart, which Helm can read, with the file of the guides.
func TestChartAlertsAreTheRules(t *testing.T) {
	t.Parallel()
	require.Equal(t, read(t, "alerts.yaml"), read(t, "helm/sheaf/alerts.yaml"), "run: cp deploy/alerts.yaml deploy/helm/sheaf/")
}

// The values for the chart of NATS come to the options of nats.conf.
func TestChartOfNATSHasTheOptionsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	var values struct {
		Config struct {
			Cluster   struct{ Replicas int }
			JetStream struct{ Merge map[string]any } `yaml:"jetstream"`
			Merge     map[string]any
		}
	}
	require.NoError(t, yaml.Unmarshal([]byte(read(t, "helm/nats-values.yaml")), &values))
	config := values.Config.Merge
	config["jetstream"] = values.Config.JetStream.Merge
	text, err := json.Marshal(config)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	got, err := server.ProcessConfigFile(path)
	require.NoError(t, err)
	want, err := server.ProcessConfigFile("nats.conf")
	require.NoError(t, err)
	options := func(o *server.Options) []any {
		return []any{o.SyncAlways, o.MaxPayload / 1e6, o.NoFastProducerStall, o.WriteDeadline, o.PingInterval, o.MaxPingsOut,
			o.MaxPending, o.LameDuckDuration, o.LameDuckGracePeriod}
	}
	require.Equal(t, options(want), options(got))
	require.Equal(t, 3, values.Config.Cluster.Replicas)
	require.True(t, got.SyncAlways)
}

// helm returns the output of Helm, as .ci/charts installs it, and skips without it.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	folder := os.Getenv("SHEAF_CHARTS")
	if folder == "" {
		home, err := os.UserHomeDir()
		require.NoError(t, err)
		folder = filepath.Join(home, ".cache", "sheaf-charts")
	}
	program := filepath.Join(folder, "bin", "helm")
	if _, err := os.Stat(program); err != nil {
		t.Skip("needs helm, which .ci/charts installs")
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", errors.New(errs.String())
	}
	return out.String(), nil
}

const chart = "helm/sheaf"

func template(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return helm(t, append([]string{"template", "sheaf", chart, "--namespace", "exports", "--kube-version", "1.34.1"}, args...)...)
}

// A labelled object of Kubernetes.
type manifest struct {
	Kind     string
	Metadata struct {
		Name   string
		Labels map[string]string
	}
	Spec yaml.Node
}

func (m manifest) spec(t *testing.T, into any) {
	t.Helper()
	require.NoError(t, m.Spec.Decode(into), m.Metadata.Name)
}

// role returns the role of an object that belongs to one.
func (m manifest) role() string { return strings.TrimPrefix(m.Metadata.Name, "sheaf-") }

// rendered returns the objects of the chart by kind, for a file of values.
func rendered(t *testing.T, values string) map[string][]manifest {
	t.Helper()
	text, err := template(t, "-f", values)
	require.NoError(t, err)
	objects := map[string][]manifest{}
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var m manifest
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			return objects
		}
		require.NoError(t, err)
		objects[m.Kind] = append(objects[m.Kind], m)
	}
}

type variable struct {
	Name, Value string
	ValueFrom   struct {
		SecretKeyRef struct{ Name, Key string } `yaml:"secretKeyRef"`
	} `yaml:"valueFrom"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

type podSpec struct {
	AutomountServiceAccountToken  *bool `yaml:"automountServiceAccountToken"`
	EnableServiceLinks            *bool `yaml:"enableServiceLinks"`
	TerminationGracePeriodSeconds int   `yaml:"terminationGracePeriodSeconds"`
	SecurityContext               struct {
		RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
		SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	TopologySpreadConstraints []struct {
		LabelSelector labelSelector `yaml:"labelSelector"`
	} `yaml:"topologySpreadConstraints"`
	Containers []struct {
		Image           string
		Args            []string
		Env             []variable
		LivenessProbe   probe `yaml:"livenessProbe"`
		ReadinessProbe  probe `yaml:"readinessProbe"`
		SecurityContext struct {
			AllowPrivilegeEscalation *bool                   `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool                    `yaml:"readOnlyRootFilesystem"`
			Capabilities             struct{ Drop []string } `yaml:"capabilities"`
		} `yaml:"securityContext"`
		Resources    struct{ Limits, Requests map[string]string }
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	}
	Volumes []struct{ Name string }
}

type labelSelector struct {
	MatchLabels map[string]string `yaml:"matchLabels"`
}

type workload struct {
	Replicas *int
	Selector labelSelector
	Template struct {
		Metadata struct{ Labels map[string]string }
		Spec     podSpec
	}
	VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
}

// workloads returns the four Deployments, or StatefulSets, by role.
func workloads(t *testing.T, objects map[string][]manifest) map[string]workload {
	t.Helper()
	all := map[string]workload{}
	for _, m := range slices.Concat(objects["Deployment"], objects["StatefulSet"]) {
		var w workload
		m.spec(t, &w)
		all[m.role()] = w
	}
	require.Len(t, all, 4)
	return all
}

func (w workload) env(name string) (variable, bool) {
	env := w.Template.Spec.Containers[0].Env
	i := slices.IndexFunc(env, func(v variable) bool { return v.Name == name })
	if i < 0 {
		return variable{}, false
	}
	return env[i], true
}

// selects reports whether a selector names only labels that an object has.
func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

var chartValues = []string{"minimal", "cluster", "s3", "everything"}

func eachChart(t *testing.T, check func(*testing.T, map[string][]manifest)) {
	t.Parallel()
	for _, name := range chartValues {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, rendered(t, filepath.Join(chart, "ci", name+".yaml")))
		})
	}
}

func TestChartPodsAreConfined(t *testing.T) {
	eachChart(t, func(t *testing.T, objects map[string][]manifest) {
		for role, w := range workloads(t, objects) {
			pod := w.Template.Spec
			require.True(t, selects(w.Selector.MatchLabels, w.Template.Metadata.Labels), role)
			require.False(t, *pod.AutomountServiceAccountToken)
			require.False(t, *pod.EnableServiceLinks, "its variables begin with SHEAF_")
			require.True(t, pod.SecurityContext.RunAsNonRoot)
			require.Equal(t, "RuntimeDefault", pod.SecurityContext.SeccompProfile.Type)
			require.Len(t, pod.TopologySpreadConstraints, 2)
			for _, c := range pod.TopologySpreadConstraints {
				require.True(t, selects(c.LabelSelector.MatchLabels, w.Template.Metadata.Labels))
				require.Equal(t, role, c.LabelSelector.MatchLabels["app.kubernetes.io/component"])
			}
			require.Len(t, pod.Containers, 1)
			c := pod.Containers[0]
			require.Equal(t, []string{"serve"}, c.Args)
			require.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
			require.True(t, c.SecurityContext.ReadOnlyRootFilesystem)
			require.Equal(t, []string{"ALL"}, c.SecurityContext.Capabilities.Drop)
			require.NotEmpty(t, c.Resources.Limits["memory"])
			require.NotEmpty(t, c.Resources.Requests["cpu"])
			require.NotContains(t, c.Image, ":latest")
			require.Equal(t, probe{HTTPGet: struct{ Path, Port string }{"/healthz", "ops"}}, c.LivenessProbe)
			require.Equal(t, probe{HTTPGet: struct{ Path, Port string }{"/readyz", "ops"}}, c.ReadinessProbe)
			var volumes []string
			for _, v := range pod.Volumes {
				volumes = append(volumes, v.Name)
			}
			for _, v := range w.VolumeClaimTemplates {
				volumes = append(volumes, v.Metadata.Name)
			}
			var mounts []string
			for _, m := range c.VolumeMounts {
				mounts = append(mounts, m.Name)
			}
			require.ElementsMatch(t, volumes, mounts)
			require.Subset(t, mounts, []string{"data", "tmp"}, "the root is read-only")
		}
	})
}

// A pod has the time that a drain takes: 15 s, and before it the delay of an ingress.
func TestChartLeavesTimeToDrain(t *testing.T) {
	eachChart(t, func(t *testing.T, objects map[string][]manifest) {
		for role, w := range workloads(t, objects) {
			need := 15 * time.Second
			if role == "ingress" {
				v, ok := w.env("SHEAF_SHUTDOWN_DELAY")
				require.True(t, ok)
				delay, err := time.ParseDuration(v.Value)
				require.NoError(t, err)
				require.Positive(t, delay)
				need += delay
			}
			grace := time.Duration(w.Template.Spec.TerminationGracePeriodSeconds) * time.Second
			require.Equal(t, need+5*time.Second, grace, role)
		}
	})
}

// No value of a secret is in an object: variables and files refer to Secrets.
func TestChartRefersToSecrets(t *testing.T) {
	eachChart(t, func(t *testing.T, objects map[string][]manifest) {
		require.Empty(t, objects["Secret"])
		for _, w := range workloads(t, objects) {
			_, inlineKeys := w.env("AWS_SECRET_ACCESS_KEY")
			require.False(t, inlineKeys)
			_, inline := w.env("SHEAF_SECRET_KEY")
			require.False(t, inline)
			file, ok := w.env("SHEAF_SECRET_KEY_FILE")
			require.True(t, ok)
			require.Equal(t, "/run/secrets/sheaf/secret-key", file.Value)
		}
	})
}

func TestChartBudgetsAndServicesSelectTheirPods(t *testing.T) {
	eachChart(t, func(t *testing.T, objects map[string][]manifest) {
		roles := workloads(t, objects)
		require.Len(t, objects["PodDisruptionBudget"], len(roles))
		for _, m := range objects["PodDisruptionBudget"] {
			var budget struct {
				MaxUnavailable int `yaml:"maxUnavailable"`
				Selector       labelSelector
			}
			m.spec(t, &budget)
			require.Equal(t, 1, budget.MaxUnavailable)
			for role, w := range roles {
				require.Equal(t, role == m.role(), selects(budget.Selector.MatchLabels, w.Template.Metadata.Labels))
			}
		}
		for _, m := range objects["Service"] {
			var service struct{ Selector map[string]string }
			m.spec(t, &service)
			for role, w := range roles {
				want := role == "ingress" || strings.HasSuffix(m.Metadata.Name, "-ops")
				require.Equal(t, want, selects(service.Selector, w.Template.Metadata.Labels), "%s, %s", m.Metadata.Name, role)
			}
		}
		for _, m := range objects["ServiceMonitor"] {
			var monitor struct {
				JobLabel string `yaml:"jobLabel"`
				Selector labelSelector
			}
			m.spec(t, &monitor)
			i := slices.IndexFunc(objects["Service"], func(s manifest) bool { return selects(monitor.Selector.MatchLabels, s.Metadata.Labels) })
			require.GreaterOrEqual(t, i, 0)
			require.Equal(t, "sheaf-ops", objects["Service"][i].Metadata.Name)
			require.Equal(t, "sheaf", objects["Service"][i].Metadata.Labels[monitor.JobLabel], "the alerts ask for this job")
		}
		for _, m := range objects["PrometheusRule"] {
			var got, want struct {
				Groups []struct{ Rules []struct{ Alert string } }
			}
			m.spec(t, &got)
			require.NoError(t, yaml.Unmarshal([]byte(read(t, "alerts.yaml")), &want))
			require.Equal(t, want, got)
		}
	})
}

// Either KEDA scales a role, by consumers that exist, or an HPA, or its number is fixed.
func TestChartScalesARoleInOneWay(t *testing.T) {
	consumers := map[string][]string{
		"crawler":   {events.StreamEvents + "/" + events.ConsumerCrawler, "SHEAF_WORK/spans"},
		"assembler": {events.StreamEvents + "/" + events.ConsumerAssembler},
	}
	eachChart(t, func(t *testing.T, objects map[string][]manifest) {
		scaled := map[string]bool{}
		for _, m := range slices.Concat(objects["ScaledObject"], objects["HorizontalPodAutoscaler"]) {
			require.False(t, scaled[m.role()], "scaled twice")
			scaled[m.role()] = true
			var s struct {
				ScaleTargetRef struct{ Name string } `yaml:"scaleTargetRef"`
				Triggers       []struct {
					Type     string
					Metadata struct{ Stream, Consumer, LagThreshold string }
				}
			}
			m.spec(t, &s)
			require.Equal(t, m.Metadata.Name, s.ScaleTargetRef.Name)
			if m.Kind == "ScaledObject" {
				var got []string
				for _, trigger := range s.Triggers {
					require.Equal(t, "nats-jetstream", trigger.Type)
					got = append(got, trigger.Metadata.Stream+"/"+trigger.Metadata.Consumer)
				}
				require.Equal(t, consumers[m.role()], got)
			}
		}
		for role, w := range workloads(t, objects) {
			require.Equal(t, scaled[role], w.Replicas == nil, "%s: a fixed number would undo the scaling at each upgrade", role)
		}
	})
}

// Sources and callbacks are public addresses, or those that settings.allow-cidr names. Nothing reaches the
// metadata of the cloud.
func TestChartNetworkPolicies(t *testing.T) {
	type block struct {
		CIDR   string
		Except []string
	}
	eachChart(t, func(t *testing.T, objects map[string][]manifest) {
		require.Len(t, objects["NetworkPolicy"], 4)
		allowed := workloads(t, objects)
		for _, m := range objects["NetworkPolicy"] {
			var policy struct {
				PodSelector labelSelector `yaml:"podSelector"`
				PolicyTypes []string      `yaml:"policyTypes"`
				Egress      []struct {
					Ports []struct{ Port string }
					To    []struct {
						IPBlock *block `yaml:"ipBlock"`
					}
				}
			}
			m.spec(t, &policy)
			require.Equal(t, []string{"Ingress", "Egress"}, policy.PolicyTypes)
			w := allowed[m.role()]
			require.True(t, selects(policy.PodSelector.MatchLabels, w.Template.Metadata.Labels))
			reaches := func(address string) bool {
				a := netip.MustParseAddr(address)
				for _, rule := range policy.Egress {
					for _, to := range rule.To {
						if to.IPBlock == nil || len(rule.Ports) > 0 && rule.Ports[0].Port == "53" {
							continue
						}
						cidr := netip.MustParsePrefix(to.IPBlock.CIDR)
						in := cidr.Contains(a)
						for _, except := range to.IPBlock.Except {
							inner := netip.MustParsePrefix(except)
							require.True(t, cidr.Contains(inner.Addr()) && cidr.Bits() < inner.Bits(), "Kubernetes refuses %s", except)
							in = in && !inner.Contains(a)
						}
						if in {
							return true
						}
					}
				}
				return false
			}
			for _, metadata := range []string{"169.254.169.254", "fd00:ec2::254", "100.100.100.200", "10.96.0.1", "192.168.1.1"} {
				require.False(t, reaches(metadata), "%s reaches %s", m.Metadata.Name, metadata)
			}
			v, _ := w.env("SHEAF_ALLOW_CIDR")
			foreign := m.role() != "assembler"
			require.Equal(t, foreign && strings.Contains(v.Value, "10.20.0.0/16"), reaches("10.20.3.4"))
			if foreign {
				require.True(t, reaches("93.184.215.14"))
				require.True(t, reaches("2606:2800:21f:cb07:6820:80da:af6b:8b2c"))
			}
		}
	})
}

// A typo is refused, not ignored, and so are values that do not fit together.
func TestChartRefusesWrongValues(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"setings.max-rows=1":                            "'setings' not allowed",
		"settings.conns-per-hots=16":                    "'conns-per-hots' not allowed",
		"settings.roles=crawler":                        "'roles' not allowed",
		"settings.keep-files=14days":                    "/settings/keep-files",
		"settings.allow-cidr={169.254.169.254/32}":      "/settings/allow-cidr/0",
		"settings.allow-cidr={0.0.0.0/0}":               "/settings/allow-cidr/0",
		"crawler.replica=2":                             "'replica' not allowed",
		"nats.replicas=2":                               "/nats/replicas",
		"nats.urls={nats://sheaf:PASSWORD@nats:4222}":   "/nats/urls/0",
		"image.tag=latest":                              "/image/tag",
		"autoscaling.kind=both":                         "/autoscaling/kind",
		"publicURL=":                                    "publicURL: set the URL",
		"nats.urls=null":                                "nats.urls: name the NATS servers",
		"nats.urlsSecret.name=x":                        "exclude each other",
		"apiKeys.secret=":                               "apiKeys.secret: name the Secret",
		"insecureNoAuth=true":                           "exclude each other",
		"files.url=s3://bucket":                         "files.s3Secret.name: name the Secret",
		"files.url=file:///files":                       "/files/url",
		"env[0].name=SHEAF_ROLES,env[0].value=notifier": "/env/0/name",
	} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			_, err := template(t, "-f", filepath.Join(chart, "ci", "cluster.yaml"), "--set", value)
			require.ErrorContains(t, err, want)
		})
	}
}
