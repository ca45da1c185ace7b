/* `fan_out PORT`: the least that sending a message to all takes. Each text message (RFC 6455) that a WebSocket sends
 * is framed once and written to every WebSocket by one send() each; there are no timeouts, no checks, no other paths.
 * What cannot be written at once is lost. Everything else is what the kernel costs. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, ROOM = 1 << 17 };
static int channels[MOST], place[MOST], count;

static uint32_t turned(uint32_t x, int by) { return x << by | x >> (32 - by); }

/* SHA-1 (RFC 3174) of at most 119 bytes */
static void sha1(const char *text, uint8_t out[20]) {
  uint8_t block[128] = {0};
  size_t length = strlen(text), blocks = (length + 9 + 63) / 64;
  memcpy(block, text, length);
  block[length] = 0x80;
  block[blocks * 64 - 2] = length * 8 >> 8;
  block[blocks * 64 - 1] = length * 8;
  uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
  for (size_t at = 0; at < blocks; at++) {
    for (int i = 0; i < 16; i++) { memcpy(&w[i], block + at * 64 + i * 4, 4); w[i] = ntohl(w[i]); }
    for (int i = 16; i < 80; i++) w[i] = turned(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 80; i++) {
      uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
      uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
      uint32_t next = turned(a, 5) + f + e + k + w[i];
      e = d; d = c; c = turned(b, 30); b = a; a = next;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
  }
  for (int i = 0; i < 5; i++) { uint32_t x = htonl(h[i]); memcpy(out + i * 4, &x, 4); }
}

static void answer(int fd, char *head) {
  char *key = strcasestr(head, "Sec-WebSocket-Key: "), text[128], said[256], code[32] = {0};
  if (!key) {
    static const char ready[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nready";
    send(fd, ready, sizeof ready - 1, MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    return;
  }
  snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key + 19);
  uint8_t hash[21] = {0};
  sha1(text, hash);
  static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (int i = 0, o = 0; i < 20; i += 3) {
    uint32_t v = hash[i] << 16 | hash[i + 1] << 8 | hash[i + 2];
    for (int j = 18; j >= 0; j -= 6) code[o++] = set[v >> j & 63];
  }
  code[27] = '=';
  int length = snprintf(said, sizeof said, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", code);
  send(fd, said, length, MSG_NOSIGNAL);
  place[fd] = count + 1;
  channels[count++] = fd;
}

static void forget(int fd) {
  if (place[fd]) {
    int last = channels[--count];
    channels[place[fd] - 1] = last;
    place[last] = place[fd];
    place[fd] = 0;
  }
  close(fd);
}

static void tell_all(const uint8_t *data, ssize_t length) {
  static uint8_t frame[ROOM];
  size_t size = data[1] & 127, head = 2;
  if ((data[0] & 15) > 2) return; /* a control frame */
  if (size == 126) { size = data[2] << 8 | data[3]; head = 4; }
  if (size == 127 || (ssize_t)(head + 4 + size) != length) { fprintf(stderr, "one frame at a time\n"); exit(1); }
  memcpy(frame, data, head);
  frame[1] &= 127;
  for (size_t i = 0; i < size; i++) frame[head + i] = data[head + 4 + i] ^ data[head + (i & 3)];
  for (int i = 0; i < count; i++) send(channels[i], frame, head + size, MSG_NOSIGNAL);
}

int main(int argc, char **argv) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poll = epoll_create1(0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 8000)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 65535)) { perror("listen"); return 1; }
  struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener}, events[1024];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &wanted);
  static uint8_t data[ROOM];
  for (;;) {
    int ready = epoll_wait(poll, events, 1024, -1);
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          if (fd >= MOST) { close(fd); continue; }
          setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          wanted.data.fd = fd;
          epoll_ctl(poll, EPOLL_CTL_ADD, fd, &wanted);
        }
        continue;
      }
      ssize_t length = recv(fd, data, sizeof data - 1, 0);
      if (length <= 0) { forget(fd); continue; }
      data[length] = 0;
      if (place[fd]) tell_all(data, length);
      else answer(fd, (char *)data); /* a head comes in one piece here */
    }
  }
}
