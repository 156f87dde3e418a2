// `ask METHOD URL BODY`: prints what comes as it comes, then the status.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

func main() {
	request, err := http.NewRequest(os.Args[1], os.Args[2], strings.NewReader(os.Args[3]))
	if err != nil {
		log.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("\nstatus=%d", answer.StatusCode)
}
