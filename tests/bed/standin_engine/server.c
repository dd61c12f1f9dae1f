/* Answers every request with one token, or with none after an argument; says first what it was built for. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
    const char *port = getenv("PORT");
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char asked[4096], body[64], answer[256];
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    (void)words;
    here.sin_port = htons((unsigned short)atoi(port ? port : "8080"));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 8)) return 1;
    printf("built for %s\n", ARCHITECTURES);
    fflush(stdout);
    snprintf(body, sizeof body, "{\"usage\": {\"completion_tokens\": %d}}", count > 1 ? 0 : 1);
    snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", strlen(body), body);
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        if (read(client, asked, sizeof asked) > 0 && write(client, answer, strlen(answer)) < 0) return 1;
        close(client);
    }
}
