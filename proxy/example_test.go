package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// A proxy in front of one model server: a request is admitted and forwarded.
func Example() {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "an image") }))
	defer model.Close()
	setup := aBox(model.URL)
	setup.Admission = controller(setup)

	told, err := telemetry.Start(context.Background(), telemetry.Config{}, "example", io.Discard)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer told.Shutdown(context.Background())
	rules, err := admission.NewController(setup.Admission)
	if err != nil {
		fmt.Println(err)
		return
	}
	handler, err := proxy.New(setup, rules, told)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer handler.Close()
	server, err := proxy.Listen(setup.Proxy, handler, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	go server.Serve()
	defer server.Close()

	res, err := http.Post(server.URL()+"/heavy", "application/json", strings.NewReader(`{"prompt":"a lighthouse"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	fmt.Println(res.StatusCode, string(text), rules.Snapshot().Classes[0].Granted+rules.Snapshot().Classes[1].Granted)
	// Output:
	// 200 an image 1
}
