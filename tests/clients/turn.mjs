// One turn of a kept conversation with OpenAI's JavaScript client: argv has the packages' folder, the address, the input and the id before.
import { createRequire } from 'node:module'
const [packages, root, input, previous_response_id] = process.argv.slice(2)
const OpenAI = createRequire(packages + '/')('openai')
const client = new (OpenAI.default ?? OpenAI)({ baseURL: root + '/v1', apiKey: 'x', maxRetries: 5 })
const { id } = await client.responses.create({ model: 'phi-4-mini-instruct', input, ...(previous_response_id && { previous_response_id }) })
const items = []
for await (const item of client.responses.inputItems.list(id, { order: 'asc' })) items.push(item.content[0].text)
console.log(JSON.stringify({ id, items }))
