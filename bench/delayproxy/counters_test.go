package main

import "testing"

func TestARequestIsNamedByItsS3Operation(t *testing.T) {
	cases := map[string]string{
		"GET /b/k HTTP/1.1\r\n\r\n":                                                "GET",
		"GET /b/k?x-id=GetObject HTTP/1.1\r\n\r\n":                                 "GET",
		"HEAD /b/k?partNumber=1 HTTP/1.1\r\n\r\n":                                  "HEAD",
		"GET /b/?list-type=2&prefix=uploads%2F HTTP/1.1\r\n":                       "LIST",
		"GET /b/?uploads&prefix=a HTTP/1.1\r\n":                                    "LIST-UPLOADS",
		"GET /b?location HTTP/1.1\r\n":                                             "GET-LOCATION",
		"PUT /b/k?partNumber=1&uploadId=x HTTP/1.1\r\n":                            "PUT-PART",
		"PUT /b/k?partNumber=1&uploadId=x HTTP/1.1\r\nX-Amz-Copy-Source: /b/j\r\n": "COPY-PART",
		"PUT /b/k HTTP/1.1\r\nx-amz-copy-source: /b/j\r\n":                         "COPY",
		"POST /b/k?uploads= HTTP/1.1\r\n":                                          "CREATE-UPLOAD",
		"POST /b/k?uploadId=x HTTP/1.1\r\n":                                        "COMPLETE-UPLOAD",
		"POST /b?delete HTTP/1.1\r\n":                                              "DELETE-MANY",
		"DELETE /b/k?uploadId=x HTTP/1.1\r\n":                                      "ABORT-UPLOAD",
		"GET some bytes that are no request":                                       continued,
	}
	for head, want := range cases {
		if got := kind([]byte(head)); got != want {
			t.Errorf("%q is %s, want %s", head, got, want)
		}
	}
}
