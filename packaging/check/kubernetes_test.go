// Package check holds the files of packaging to the types and schemas of the
// programs that read them. It is a module of its own, so that Anteroom requires
// none of what these need.
package check

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"go.yaml.in/yaml/v3"
)

// build is what `kubectl apply -k` would send: each object, decoded into its type.
// An unknown field is a failure.
func build(t *testing.T, directory string) (objects []runtime.Object) {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, r := range resources.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Errorf("%s: %v\n%s", r.CurId(), err, text)
			continue
		}
		objects = append(objects, object)
	}
	return objects
}

// of gives the only object of a type.
func of[T runtime.Object](t *testing.T, objects []runtime.Object) (found T) {
	t.Helper()
	n := 0
	for _, o := range objects {
		if o, ok := o.(T); ok {
			found, n = o, n+1
		}
	}
	if n != 1 {
		t.Fatalf("there are %d objects of type %T, want one", n, found)
	}
	return found
}

func TestKubernetes(t *testing.T) {
	for _, c := range []struct {
		directory string
		hostPID   bool
	}{
		{"../kubernetes/base", false},
		{"../kubernetes/exact", true},
	} {
		t.Run(c.directory, func(t *testing.T) {
			objects := build(t, c.directory)
			pod := of[*appsv1.Deployment](t, objects).Spec.Template.Spec
			if pod.HostPID != c.hostPID {
				t.Errorf("hostPID is %v, want %v", pod.HostPID, c.hostPID)
			}
			sidecar := sidecar(t, pod)
			serviceReaches(t, of[*corev1.Service](t, objects), sidecar)
			mountsTheConfiguration(t, pod, of[*corev1.ConfigMap](t, objects))
			endsInOrder(t, pod, of[*corev1.ConfigMap](t, objects))
		})
	}
}

// sidecar is Anteroom's container: a native sidecar that the engines wait for.
func sidecar(t *testing.T, pod corev1.PodSpec) corev1.Container {
	if len(pod.InitContainers) != 1 {
		t.Fatalf("there are %d init containers, want Anteroom's", len(pod.InitContainers))
	}
	c := pod.InitContainers[0]
	if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("the init container does not restart always: it is no sidecar")
	}
	if c.StartupProbe == nil || c.StartupProbe.Exec == nil || !slices.Equal(c.StartupProbe.Exec.Command, []string{"/usr/bin/anteroom", "health"}) {
		t.Error("the startup probe does not ask `anteroom health`")
	}
	if s := c.SecurityContext; s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser != 65532 {
		t.Error("it does not run as the image's user, 65532")
	}
	return c
}

func serviceReaches(t *testing.T, s *corev1.Service, c corev1.Container) {
	to := s.Spec.Ports[0].TargetPort.String()
	if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == to }) {
		t.Errorf("the service leads to port %q, which Anteroom's container does not have", to)
	}
}

// mountsTheConfiguration holds that kustomize has put the generated name in place.
func mountsTheConfiguration(t *testing.T, pod corev1.PodSpec, m *corev1.ConfigMap) {
	if m.Data["anteroom.yaml"] == "" {
		t.Error("the ConfigMap has no anteroom.yaml")
	}
	if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.ConfigMap != nil && v.ConfigMap.Name == m.Name }) {
		t.Errorf("no volume is made of the ConfigMap %s", m.Name)
	}
}

// endsInOrder holds that the engines outlive Anteroom's drain, and the pod both.
func endsInOrder(t *testing.T, pod corev1.PodSpec, m *corev1.ConfigMap) {
	var config struct {
		Drain struct{ Grace time.Duration }
	}
	if err := yaml.Unmarshal([]byte(m.Data["anteroom.yaml"]), &config); err != nil {
		t.Fatal(err)
	}
	grace := config.Drain.Grace
	var longest time.Duration
	for _, c := range pod.Containers {
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep == nil {
			t.Errorf("%s ends while Anteroom still forwards to it: want preStop", c.Name)
			continue
		}
		delay := time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second
		longest = max(longest, delay)
		if delay <= grace {
			t.Errorf("%s ends after %v, and drain.grace is %v", c.Name, delay, grace)
		}
	}
	const engines = 30 * time.Second // what the engines may take to end
	if whole := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace <= 0 || whole < longest+engines+grace {
		t.Errorf("terminationGracePeriodSeconds is %v, want %v + %v + %v at least", whole, longest, engines, grace)
	}
}

func TestAnUnknownFieldIsAFailure(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	_, _, err := decoder.Decode([]byte("apiVersion: v1\nkind: Service\nspec: {port: 1}\n"), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "spec.port") {
		t.Errorf("got %v, want an error that names spec.port", err)
	}
}
